"""Every recorded request, sent to the simulation: status, content type and the shape of the answer are the engine's."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.fakes.recordings import Recording, recordings
from tests.sim.harness import JSON_HEADERS, Client, Reply, running
from tests.sim.shapes import body_shape, without

VLLM, SGLANG, TRTLLM = recordings("vllm"), recordings("sglang"), recordings("trtllm")
TEXT = json.loads(next(one.answer for one in VLLM if one.name.endswith("/chat_basic")))["choices"][0]["message"][
    "content"
]
SERVERS: dict[str, dict[str, Any]] = {
    "vllm": {"names": ("tiny", "tiny-alias"), "reasoning": "off", "vocab_size": 768, "text": TEXT},
    "vllm-reasoning": {"names": ("tiny",), "reasoning": "always", "vocab_size": 768, "text": TEXT},
    "vllm-keys": {"names": ("tiny",), "reasoning": "off", "api_key": "sk-two"},
    "vllm-no-tools": {"names": ("tiny",), "reasoning": "off", "tools": False},
    "vllm-pool": {"names": ("tiny-embed",), "task": "embed"},
    "sglang": {"names": ("tiny",), "reasoning": "off", "vocab_size": 384, "text": "one() two() three " * 40},
    "sglang-reasoning": {"names": ("tiny",), "reasoning": "always", "vocab_size": 384},
    "sglang-emb": {"names": ("tiny",), "task": "embed", "vocab_size": 384},
    "sglang-keys": {"names": ("tiny",), "api_key": "sk-two"},
    "trtllm": {"names": ("tiny",), "reasoning": "off"},
}
BUSY = "a server with its queue full: test_inference.py has it"
DYING = "an engine that is stopped or killed: test_server.py has it"
RANDOM = "a model with random weights that made no tool call, where the simulation makes one"
TYPED = "typed by hand, and different in what the sources of its time say: test_trtllm_writer.py"
PAGES = "the simulation has some of their series: test_metrics.py"
SKIPPED = {
    "vllm/base/chat_batch": "the batch endpoint is not simulated",
    "vllm/base/options_cors": "CORS is not simulated",
    "vllm/misc/ka_stream": "--sse-keep-alive-interval is not simulated",
    "sglang/base/abort_stream_tail": "the last frames of a longer exchange: test_inference.py has it",
    "sglang/base/chat_cached": "details of cached tokens are not simulated",
    "sglang/base/health": "one probe of a second is enough: health_generate is the same page",
    "sglang/base/health_after": "one probe of a second is enough: health_generate is the same page",
    "sglang/reasoning/reas_bias_end": "logit_bias does not change what the simulation says",
    "sglang/reasoning/reas_forced": "a pattern does not constrain reasoning here",
    "sglang/reasoning/reas_forced_nothink": "a pattern does not constrain reasoning here",
    "sglang/reasoning/reas_forced_stream": "a pattern does not constrain reasoning here",
    "sglang/reasoning/reas_sep_false": "separate_reasoning is not simulated",
    "trtllm/base/chat_null": "an engine that fails: test_inference.py has it",
    "trtllm/base/err_engine": "an engine that fails: test_inference.py has it",
    "trtllm/base/err_unknown_field_later": "a later version",
    "trtllm/base/chat_reasoning": "a server with another model",
    **{one.name: PAGES for one in (*VLLM, *SGLANG) if one.name.split("/")[1] == "metrics"},
    **{f"vllm/misc/queue_{number}": BUSY for number in range(6)},
    **{f"sglang/base/err_queue_full{kind}": BUSY for kind in ("", "_stream")},
    **{one.name: DYING for one in VLLM if one.name.startswith("vllm/life/")},
    **{f"sglang/tools/tool_{name}": RANDOM for name in ("auto", "named", "required", "parallel_off", "strict")},
    **{f"sglang/tools/tool_loose_{name}_plain": RANDOM for name in ("named", "required")},
    **{f"trtllm/base/{name}": TYPED for name in ("chat_stream", "chat_stream_no_usage", "comp_basic", "comp_stream")},
    **{f"trtllm/base/{name}": TYPED for name in ("reasoning_stream", "tools_stream", "health", "health_generate")},
}
CUT = ("matched_stop",)  # the recorded answer was cut at max_tokens, the simulation's ends by itself
FLAGS = ("prompt_tokens_details", "metrics")  # options of that one server
IGNORED: dict[str, tuple[str, ...]] = {
    "sglang/base/so_json_object": CUT,
    **{one.name: CUT for one in SGLANG if "/tool_" in one.name and one.name.endswith("_stream")},
    **{one.name: FLAGS for one in VLLM if one.name.split("/")[-1].startswith(("reason_", "reqid_", "priority_ok"))},
}
REPLAYED = [one for one in [*VLLM, *SGLANG, *TRTLLM] if one.name not in SKIPPED]


def server_of(name: str) -> str:
    engine, group, short = name.split("/")
    if short.startswith("auth_"):
        return f"{engine}-keys"
    if short.startswith(("reason_", "reqid_", "priority_ok")):
        return f"{engine}-reasoning"
    special = {"pool": "-pool", "emb": "-emb", "reasoning": "-reasoning"}.get(group, "")
    return engine + ("-no-tools" if short.startswith("notool_") else special)


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(running(name.split("-")[0], context=2048, **changes)).port
            for name, changes in SERVERS.items()
        }


def replay(port: int, recording: Recording) -> Reply:
    body = recording.body.encode() if isinstance(recording.body, str) else recording.body
    typed = recording.name.startswith("sglang/") and not recording.headers
    with Client(port) as client:
        client.send(recording.method, recording.path, body, JSON_HEADERS if typed else recording.headers)
        return client.read()


@pytest.mark.parametrize("recording", REPLAYED, ids=lambda recording: recording.name)
def test_response_has_the_recorded_shape(recording: Recording, ports: dict[str, int]) -> None:
    reply = replay(ports[server_of(recording.name)], recording)
    ignored = IGNORED.get(recording.name, ())
    assert reply.status == recording.status
    assert without(body_shape(reply.body), *ignored) == without(body_shape(recording.answer), *ignored)
    recorded = {name.lower(): value for name, value in recording.answer_headers.items()}
    if "server" in recorded:  # typed ones have none
        for name in ("content-type", "server", "vary", "allow"):
            assert reply.headers.get(name) == recorded.get(name)


@pytest.mark.parametrize(
    "recording",
    [one for one in REPLAYED if one.status >= 400 and b"{" in one.answer],
    ids=lambda recording: recording.name,
)
def test_error_has_the_recorded_type_code_and_param(recording: Recording, ports: dict[str, int]) -> None:
    told, recorded = (
        json.loads(body) for body in (replay(ports[server_of(recording.name)], recording).body, recording.answer)
    )
    if isinstance(recorded.get("error"), dict):
        told, recorded = told["error"], recorded["error"]
    for name in ("type", "code", "param", "detail", "object"):
        assert told.get(name) == recorded.get(name)


@pytest.mark.parametrize(
    "name",
    ["chat_basic", "chat_max_tokens", "chat_stop", "chat_continue_final", "comp_basic", "comp_echo"],
)
def test_response_equals_the_recording_for_the_same_text(name: str, ports: dict[str, int]) -> None:
    """Words, limits, stops and continuation cut where the real engine cuts."""
    recording = next(one for one in VLLM if one.name == f"vllm/base/{name}")
    choices = [json.loads(body)["choices"][0] for body in (replay(ports["vllm"], recording).body, recording.answer)]
    said = [choice["text"] if "text" in choice else choice["message"]["content"] for choice in choices]
    reasons = [choice["finish_reason"] for choice in choices]
    assert (said[0], reasons[0]) == (said[1], reasons[1])


def test_every_skipped_recording_exists() -> None:
    assert set(SKIPPED) | set(IGNORED) <= {one.name for one in [*VLLM, *SGLANG, *TRTLLM]}

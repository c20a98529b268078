"""The bytes that Ollama's clients get for recorded responses of real engines.

`GOLDEN=write pytest tests/apis/ollama/test_golden.py` rewrites the files; review them before you commit.
"""

import os
import re
from pathlib import Path

import pytest

from berth.apis.ollama.request import TimedRequest
from berth.apis.ollama.response import CHAT, GENERATE, response_body
from berth.apis.ollama.stream import OllamaStream
from berth.canonical import EngineResponse, Failure, Operation
from berth.dialects.registry import DIALECTS
from berth.errors import UpstreamError
from berth.plan import DialectName
from tests.fakes.recordings import OPERATIONS, Recording, recording

GOLDEN = Path(__file__).parent / "golden"
# Of each engine: text, thinking, tool calls, probabilities, limits, and streams that end badly.
SHOWN = {
    DialectName.VLLM: (
        *("base/chat_basic", "base/chat_stream", "base/chat_stream_usage", "base/chat_logprobs_stream"),
        *("base/comp_stream", "base/comp_logprobs", "base/reason_basic", "base/reason_stream", "base/reason_cut"),
        *("base/tools_auto", "base/tools_auto_stream", "base/tools_required_stream", "base/chat_stop_stream"),
        *("life/sigterm_inflight_stream", "misc/ka_stream"),
    ),
    DialectName.SGLANG: (
        *("base/chat_basic", "base/chat_stream", "base/chat_stream_usage", "base/chat_logprobs_stream"),
        *("base/comp_stream", "base/comp_logprobs", "reasoning/reas_default", "reasoning/reas_stream"),
        *("tools/tool_strict_required_plain", "tools/tool_strict_required_stream", "tools/tool_required_stream"),
        *("base/abort_stream_tail", "base/err_queue_full_stream"),
    ),
    DialectName.TRTLLM: (
        *("base/chat_basic", "base/chat_stream", "base/chat_stream_no_usage", "base/comp_stream"),
        *("base/chat_reasoning", "base/reasoning_stream", "base/tools_auto", "base/tools_stream"),
    ),
}
_CHANGING = re.compile(rb'("(?:created_at|(?:total|load|prompt_eval|eval)_duration)":)("[^"]*"|\d+)')
_TEXTS = re.compile(rb'("(?:content|response|thinking)":")((?:[^"\\]|\\.){200})(?:[^"\\]|\\.)*"')


def client_bytes(recorded: Recording, dialect: DialectName) -> bytes:
    operation = OPERATIONS[recorded.path]
    request = TimedRequest(
        operation=operation,
        model="tiny:latest",
        body=recorded.body,
        stream=recorded.is_stream,
        include_usage=True,
        begun_ns=0,
    )
    shape = CHAT if operation is Operation.CHAT else GENERATE
    if not recorded.is_stream:
        found = DIALECTS[dialect].answer(request, "tiny", recorded.status, recorded.answer)
        assert isinstance(found, EngineResponse)
        return response_body(request, shape, found.body) + b"\n"
    return stream_bytes(recorded.answer, request, dialect, OllamaStream(request, shape))


def stream_bytes(answer: bytes, request: TimedRequest, dialect: DialectName, stream: OllamaStream) -> bytes:
    """As the router does it, the engine's bytes in pieces of any size."""
    decoder = DIALECTS[dialect].stream(request, "tiny")
    written = b""
    for at in range(0, len(answer), 777):
        if decoder.failure is None:
            written += stream.feed(decoder.feed(answer[at : at + 777]))
    failure = decoder.failure or decoder.end()
    return written + (stream.fail(UpstreamError(failure.message)) if isinstance(failure, Failure) else b"")


def steady(written: bytes) -> bytes:
    """Without what is another each time, and without the length of long texts."""
    return _TEXTS.sub(rb'\1\2..."', _CHANGING.sub(rb'\1"-"', written))


@pytest.mark.parametrize("dialect", SHOWN)
def test_recorded_engine_responses_match_golden_file(dialect: DialectName) -> None:
    current = [
        f"# {name}\n".encode() + steady(client_bytes(recording(f"{dialect}/{name}"), dialect))
        for name in SHOWN[dialect]
    ]
    file = GOLDEN / f"{dialect}.txt"
    if os.environ.get("GOLDEN") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\n".join(current))

    assert b"\n".join(current) == file.read_bytes()

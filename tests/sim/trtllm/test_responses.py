import json
from typing import Any

import pytest

from tests.sim.harness import CHAT, Reply, running, send_request

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "boolean"}}}}}
NAMED = {"type": "function", "function": {"name": "f"}}


def stream(path: str = "/v1/chat/completions", **changes: Any) -> tuple[Reply, list[dict[str, Any]]]:
    body = {"model": "sim", "stream": True, **({} if "prompt" in changes else CHAT), **changes}
    with running("trtllm", reasoning="asked") as server:
        reply = send_request(server.port, path, body)
    return reply, [json.loads(frame[6:]) for frame in reply.frames if frame.startswith(b"data: {")]


def deltas(chunks: list[dict[str, Any]]) -> list[Any]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


def test_every_chunk_has_its_own_id_and_the_first_ends_with_a_space() -> None:
    reply, chunks = stream(max_tokens=3)
    assert len({chunk["id"] for chunk in chunks}) == len(chunks) == 4
    assert [frame.endswith(b"} ") for frame in reply.frames] == [True, False, False, False, False]


def test_chat_chunks_omit_nulls() -> None:
    reply, chunks = stream(max_tokens=2)
    assert b"null" not in reply.body
    assert [list(chunk["choices"][0]) for chunk in chunks] == [
        ["index", "delta"],
        ["index", "delta", "avg_decoded_tokens_per_iter"],
        ["index", "delta", "finish_reason", "avg_decoded_tokens_per_iter"],
    ]
    assert deltas(chunks)[1] == {"content": "The", "reasoning_content": ""}


@pytest.mark.parametrize(
    ("options", "in_chunks", "at_end"),
    [(None, False, False), ({}, True, True), ({"continuous_usage_stats": False}, False, True)],
)
def test_usage_is_in_every_chunk_unless_disabled(options: Any, in_chunks: bool, at_end: bool) -> None:
    _, chunks = stream(max_tokens=2, stream_options=options)
    assert ("usage" in chunks[1], chunks[-1]["choices"] == []) == (in_chunks, at_end)
    if at_end:
        assert chunks[-1]["usage"]["completion_tokens"] == 2


def test_tool_call_deltas_have_an_index() -> None:
    _, chunks = stream(tools=[TOOL])
    calls = [delta["tool_calls"][0] for delta in deltas(chunks) if "tool_calls" in delta]
    assert list(calls[0]) == ["id", "type", "index", "function"]
    assert "id" not in calls[1]
    assert "".join(call["function"]["arguments"] for call in calls) == '{"a": true}'
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_named_tool_gets_raw_text_in_deltas_without_an_index() -> None:
    _, chunks = stream(tools=[TOOL], tool_choice=NAMED)
    calls = [delta["tool_calls"][0] for delta in deltas(chunks) if "tool_calls" in delta]
    assert {tuple(call) for call in calls} == {("id", "type", "function")}
    assert "".join(call["function"]["arguments"] for call in calls).startswith("<tool_call>\n")
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_reasoning_has_its_own_field() -> None:
    _, chunks = stream(chat_template_kwargs={"enable_thinking": True})
    thoughts = "".join(delta.get("reasoning_content", "") for delta in deltas(chunks))
    assert thoughts.startswith("The user asks about the train.")


@pytest.mark.parametrize(("prompt", "max_tokens", "said"), [("The", 2, "The night train"), ("x", 0, None)])
def test_completion_keeps_nulls(prompt: str, max_tokens: int, said: str | None) -> None:
    reply, chunks = stream("/v1/completions", prompt=prompt, max_tokens=max_tokens, echo=True, stop=["zz"])
    if said is None:
        assert reply.status == 400
        return
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == said
    assert list(chunks[0]) == ["id", "object", "created", "model", "choices", "usage"]
    assert chunks[0]["choices"][0]["stop_reason"] is None


def test_completion_ending_by_itself_has_a_final_chunk() -> None:
    _, chunks = stream("/v1/completions", prompt="x", max_tokens=500, stream_options={})
    assert chunks[-2]["choices"][0] | {"text": ""} == chunks[-2]["choices"][0]
    assert (chunks[-2]["choices"][0]["finish_reason"], chunks[-1]["object"]) == ("stop", "chat.completion.chunk")


@pytest.mark.parametrize("requested", [True, False])
def test_reports_logprobs_and_stop_reasons(requested: bool) -> None:
    changes: dict[str, Any] = {"logprobs": True, "top_logprobs": 2} if requested else {}
    _, chunks = stream(stop=["train"], **changes)
    last = chunks[-1]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", "train")
    assert ("logprobs" in chunks[1]["choices"][0]) is requested


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("/v1/completions", {"prompt": "The", "logprobs": 1, "echo": True}),
        ("/v1/chat/completions", {**CHAT, "logprobs": True, "tools": [TOOL]}),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "The"}], "echo": True}),
    ],
)
def test_full_responses_have_the_same_content(path: str, changes: dict[str, Any]) -> None:
    with running("trtllm") as server:
        choice = send_request(server.port, path, {"model": "m", "max_tokens": 50, **changes}).json["choices"][0]
    if "prompt" in changes:
        assert choice["text"].startswith("The night")
        assert choice["logprobs"]["tokens"][0] == "The"
    elif "tools" in changes:
        assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": true}'}
    else:
        assert choice["message"]["content"].startswith("TheThe night")

import json
from typing import Any

import pytest

from tests.sim.harness import CHAT, running, send_request

THINK = {"chat_template_kwargs": {"enable_thinking": True}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "boolean"}}}}}


def chunks(**changes: Any) -> list[dict[str, Any]]:
    path = "/v1/completions" if "prompt" in changes else "/v1/chat/completions"
    with running() as server:
        reply = send_request(server.port, path, {**({} if "prompt" in changes else CHAT), "stream": True, **changes})
    return [json.loads(frame[6:]) for frame in reply.frames if frame.startswith(b"data: {")]


def test_all_frames_of_a_stream_have_the_same_id() -> None:
    assert len({chunk["id"] for chunk in chunks(max_tokens=5)}) == 1


def test_hidden_reasoning_counts_as_tokens_without_text() -> None:
    told = chunks(include_reasoning=False, stream_options={"include_usage": True}, **THINK)
    keys = {key for chunk in told for choice in chunk["choices"] for key in choice["delta"]}
    assert keys == {"role", "content"}
    assert told[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
def test_incomplete_tool_call_ends_with_length(max_tokens: int) -> None:
    last = chunks(tools=[TOOL], max_tokens=max_tokens)[-1]["choices"][0]
    assert last["finish_reason"] == "length"


def test_completion_ending_by_itself_has_a_final_frame() -> None:
    last = chunks(prompt="x", max_tokens=500)[-1]["choices"][0]
    assert (last["text"], last["finish_reason"], last["stop_reason"]) == ("", "stop", None)


def test_completion_without_remaining_text_still_echoes() -> None:
    with running() as server:
        text = server.engine.options.text
        body = {"prompt": text, "echo": True, "stream": True, "return_token_ids": True}
        frames = send_request(server.port, "/v1/completions", body).frames
    choice = json.loads(frames[0][6:])["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["token_ids"]) == (text, "stop", [])
    assert choice["prompt_token_ids"]


def test_each_piece_has_logprobs() -> None:
    told = chunks(prompt="x", max_tokens=2, logprobs=2)
    assert [chunk["choices"][0]["logprobs"]["tokens"] for chunk in told] == [["The"], [" night"]]

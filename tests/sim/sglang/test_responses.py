import json
from typing import Any

from tests.sim.harness import CHAT, running, send_request

THINK = {"chat_template_kwargs": {"enable_thinking": True}}


def chunks(**changes: Any) -> list[dict[str, Any]]:
    path = "/v1/completions" if "prompt" in changes else "/v1/chat/completions"
    with running("sglang") as server:
        reply = send_request(server.port, path, {**({} if "prompt" in changes else CHAT), "stream": True, **changes})
    return [json.loads(frame[6:]) for frame in reply.frames if frame.startswith(b"data: {")]


def test_each_choice_has_its_own_id() -> None:
    told = chunks(n=2, max_tokens=2)
    ids = {chunk["choices"][0]["index"]: chunk["id"] for chunk in told[:-2]}
    assert len(set(ids.values())) == 2
    assert [chunk["id"] for chunk in told[-2:]] == [ids[1]] * 2


def test_running_usage_counts_reasoning_tokens() -> None:
    told = chunks(stream_options={"continuous_usage_stats": True}, **THINK)
    usages = [chunk["usage"]["reasoning_tokens"] for chunk in told if chunk.get("usage")]
    assert usages == sorted(usages)
    assert usages[0] == 1


def test_completion_without_remaining_text_ends_at_once() -> None:
    with running("sglang") as server:
        body = {"prompt": server.engine.options.text, "stream": True}
        frames = send_request(server.port, "/v1/completions", body).frames
    choice = json.loads(frames[0][6:])["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["matched_stop"], len(frames)) == ("", "stop", 2, 2)


def test_completion_echoes_in_its_first_chunk() -> None:
    assert chunks(prompt="The", max_tokens=1, echo=True)[0]["choices"][0]["text"] == "The night"

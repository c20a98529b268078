"""Responses of another API are a failure of the engine: read as what they are not, their text would be lost."""

from typing import Any

import orjson
import pytest

from berth.canonical import Failure, FailureKind, Operation
from berth.dialects.answers import read_answer
from berth.dialects.registry import DIALECTS
from berth.plan import DialectName
from berth.sse import DONE
from tests.fakes.recordings import inference_request
from tests.fakes.upstream import sse

CHAT, COMPLETION = Operation.CHAT, Operation.COMPLETION
HEAD = {"id": "1", "created": 1, "model": "m"}
KINDS: dict[str, dict[str, Any]] = {
    "chat": {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "text"}}]},
    "completion": {"object": "text_completion", "choices": [{"index": 0, "text": "text"}]},
    "whole chat": {"object": "chat.completion", "choices": [{"index": 0, "message": {"content": "text"}}]},
    "Responses": {"type": "response.output_text.delta", "delta": "text"},
    "Anthropic": {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "text"}},
    "Ollama": {"message": {"role": "assistant", "content": "text"}, "done": True},
    "TGI": {"token": {"id": 1, "text": "text"}, "generated_text": "text"},
    "embeddings": {"object": "list", "data": [{"index": 0, "embedding": [1.0]}]},
}
OWN = {CHAT: "chat", COMPLETION: "completion"}


def failure_of(dialect: DialectName, operation: Operation, *frames: bytes) -> Failure | None:
    """How a stream of these frames ends; None: well."""
    body = {"model": "m", "messages": []} if operation is CHAT else {"model": "m", "prompt": "x"}
    decoder = DIALECTS[dialect].stream(inference_request(body, operation), "m")
    for frame in frames:
        decoder.feed(frame)
        if decoder.failure is not None:
            return decoder.failure
    return decoder.end()


@pytest.mark.parametrize("dialect", sorted(set(DialectName) - {DialectName.OLLAMA}))  # Ollama's streams are lines
@pytest.mark.parametrize("operation", OWN)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [b"", DONE])
def test_a_stream_of_another_kind_fails(dialect: DialectName, operation: Operation, kind: str, end: bytes) -> None:
    frame = {**HEAD, **KINDS[kind]}
    last = {**frame, "choices": [{**frame["choices"][0], "finish_reason": "stop"}]} if "choices" in frame else frame

    failure = failure_of(dialect, operation, sse(frame), sse(last), *([end] if end else []))

    if kind == OWN[operation]:
        assert failure is None
    else:
        assert failure is not None
        assert failure.kind is FailureKind.ENGINE


@pytest.mark.parametrize("operation", OWN)
def test_a_stream_that_changes_its_kind_fails(operation: Operation) -> None:
    own, other = KINDS[OWN[operation]], KINDS["completion" if operation is CHAT else "chat"]

    assert failure_of(DialectName.VLLM, operation, *[sse({**HEAD, **own})] * 3, sse({**HEAD, **other})) is not None


@pytest.mark.parametrize("operation", OWN)
def test_a_finish_without_content_is_no_other_kind(operation: Operation) -> None:
    finish = sse({**HEAD, "choices": [{"index": 0, "finish_reason": "stop"}]})

    assert failure_of(DialectName.VLLM, operation, sse({**HEAD, **KINDS[OWN[operation]]}), finish, DONE) is None


@pytest.mark.parametrize("operation", OWN)
@pytest.mark.parametrize("choice", [{"delta": {"content": "x"}}, {"text": "x"}, {"message": {"content": "x"}}, {}])
def test_a_whole_response_of_another_kind_fails(operation: Operation, choice: dict[str, Any]) -> None:
    body = orjson.dumps({**HEAD, "choices": [{"index": 0, **choice, "finish_reason": "stop"}]})
    answer = read_answer(inference_request({"model": "m"}, operation), "m", 200, body)

    assert isinstance(answer, Failure) is (("message" if operation is CHAT else "text") not in choice)

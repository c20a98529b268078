"""What engines report as numbers of tokens, and what is returned and counted."""

from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from berth.canonical import EngineResponse, Json, Operation, Usage
from berth.dialects.answers import read_answer
from berth.dialects.choices import MOST_TOKENS, read_usage
from berth.dialects.registry import DIALECTS
from berth.plan import DialectName
from berth.sse import DONE, data_of
from tests.fakes.recordings import inference_request
from tests.fakes.upstream import chat_frame, sse

WRONG: list[Any] = [-1, -(10**15), MOST_TOKENS + 1, 2**63 - 1, 1.5, 3.0, True, "7", [1], {"a": 1}]
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
DOCUMENTS: dict[Operation, Json] = {
    Operation.CHAT: {"model": "m", "choices": [CHOICE]},
    Operation.COMPLETION: {"model": "m", "choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]},
    Operation.EMBEDDING: {"model": "m", "data": [{"index": 0, "embedding": [0.5]}]},
}


def whole(operation: Operation, usage: Any) -> EngineResponse:
    body = orjson.dumps({**DOCUMENTS[operation], "usage": usage})
    response = read_answer(inference_request({"model": "m"}, operation), "m", 200, body)
    assert isinstance(response, EngineResponse)
    return response


def streamed(usage: Any) -> tuple[Any, Usage]:
    """The usage that the client gets, and the one that is counted."""
    request = inference_request({"model": "m", "messages": []}, Operation.CHAT)
    decoder = DIALECTS[DialectName.VLLM].stream(replace(request, include_usage=True), "chat")
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "chat", "choices": []}
    decoder.feed(chat_frame("x") + chat_frame(finish="stop"))
    shown = data_of(decoder.feed(sse({**head, "usage": usage})))
    decoder.feed(DONE)
    assert decoder.end() is None
    return orjson.loads(shown).get("usage") if shown else None, decoder.usage


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_what_is_no_number_of_tokens_is_0(name: str, wrong: Any) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, name: wrong}
    expected = {**usage, name: 0}
    counted = Usage(**{"prompt_tokens": 3, "completion_tokens": 2, name: 0}, implausible=True)

    for operation in DOCUMENTS:
        response = whole(operation, usage)
        assert (orjson.loads(response.body)["usage"], response.usage) == (expected, counted)
    assert streamed(usage) == (expected, counted)


@pytest.mark.parametrize("wrong", WRONG)
def test_details_are_checked_too(wrong: Any) -> None:
    usage = {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": wrong, "audio_tokens": wrong, "note": "x"}}
    response = whole(Operation.CHAT, usage)

    assert response.usage == Usage(prompt_tokens=3, implausible=True)
    details = orjson.loads(response.body)["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": 0, "audio_tokens": 0, "note": "x"}


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": None}, {"prompt_tokens": 0, "completion_tokens": MOST_TOKENS}])
def test_plausible_counts_stay_as_they_are(usage: Json) -> None:
    assert not read_usage(usage).implausible
    for operation, document in DOCUMENTS.items():
        assert whole(operation, usage).body == orjson.dumps({**document, "usage": usage})


@pytest.mark.parametrize("usage", ["none", 7, [1], True])
def test_a_stream_survives_a_usage_of_another_type(usage: Any) -> None:
    assert streamed(usage) == (None, Usage())

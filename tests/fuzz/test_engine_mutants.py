"""Whatever an engine sends: a response is read, or is the engine's failure; and every encoder ends its stream."""

import random
from collections.abc import Sequence
from contextlib import suppress

import orjson
import pytest

from berth.canonical import EngineResponse, InferenceRequest, Json
from berth.dialects.registry import DIALECTS
from berth.errors import UpstreamError
from berth.router.server.api_routes import formats
from berth.sse import data_of, frame
from tests.fakes.responses import Memory
from tests.fuzz.judging import ENDS
from tests.fuzz.mutation import mutated, written
from tests.fuzz.requests import SMALLEST
from tests.fuzz.responses import chat_answers, chat_streams

APIS = formats(Memory())
CHATS = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat")
TIMES = 150


def request_of(path: str, *, stream: bool) -> InferenceRequest:
    request = APIS[path].parse(orjson.dumps(SMALLEST[path] | {"stream": stream}), {})
    assert isinstance(request, InferenceRequest)
    return request


@pytest.mark.parametrize("path", CHATS)
def test_any_response_is_read_or_is_a_failure(path: str) -> None:
    chance, request, read = random.Random(path), request_of(path, stream=False), 0
    for document in chat_answers(2).values():
        for _ in range(TIMES):
            body = written(mutated(chance, document))
            for dialect in DIALECTS.values():
                response = dialect.answer(request, "m", 200, body)
                if isinstance(response, EngineResponse):
                    with suppress(AttributeError, IndexError, KeyError, TypeError, ValueError):  # the engine's failure
                        read += bool(orjson.loads(APIS[path].response(request, response.body)))
    assert read > TIMES


def with_one_mutated(chance: random.Random, frames: Sequence[bytes]) -> list[bytes]:
    changed = [*frames]
    place = chance.randrange(len(changed))
    data = data_of(changed[place]) or b""
    if data.startswith(b"{") and changed[place].count(b"\n\n") == 1:
        document: Json = orjson.loads(data)
        changed[place] = frame(written(mutated(chance, document)))
    return changed


@pytest.mark.parametrize("path", CHATS)
def test_any_stream_has_an_end(path: str) -> None:
    chance, request, api = random.Random(path), request_of(path, stream=True), APIS[path]
    has_end = next(end for prefix, end in ENDS if path.startswith(prefix))
    names = [name for name, frames in chat_streams(2).items() if all(one.endswith(b"\n\n") for one in frames)]
    for name in names:
        for _ in range(TIMES):
            decoder, encoder = DIALECTS["vllm"].stream(request, "m"), api.stream(request)  # type: ignore[index] # a StrEnum
            sent = b""
            for piece in with_one_mutated(chance, chat_streams(2)[name]):
                decoded = decoder.feed(piece)
                sent += encoder.feed(decoded) if decoded else b""
                if decoder.failure is not None:
                    break
            failure = decoder.failure or decoder.end()
            if failure is not None:
                sent += encoder.fail(UpstreamError(failure.message))
            assert has_end(sent), (name, failure, sent[-300:])

"""What leaves a dialect is of the official client's types, without a single conversion."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, ValidationError

from berth.canonical import EngineResponse, Failure, Operation
from berth.dialects.registry import DIALECTS
from berth.plan import DialectName
from berth.sse import DONE, FrameSplitter, data_of
from tests.fakes.recordings import OPERATIONS, Recording, recordings

WHOLE: dict[Operation, type[BaseModel]] = {
    Operation.CHAT: ChatCompletion,
    Operation.COMPLETION: Completion,
    Operation.EMBEDDING: CreateEmbeddingResponse,
}
STREAMED: dict[Operation, type[BaseModel]] = {Operation.CHAT: ChatCompletionChunk, Operation.COMPLETION: Completion}
# Places where OpenAI's own answers are not of its client's types: a completion that goes on in its stream, the first
# token of an echoed prompt, and vectors in base64.
ITS_OWN = {"finish_reason", "token_logprobs", "top_logprobs", "embedding"}


def exchanges() -> list[Recording]:
    return [
        seen
        for engine in ("vllm", "sglang", "trtllm")
        for seen in recordings(engine)
        if seen.status == 200 and seen.path in OPERATIONS
    ]


def documents(seen: Recording) -> Iterator[tuple[type[BaseModel], Any]]:
    """What a client gets of it."""
    dialect, request = DIALECTS[DialectName(seen.name.partition("/")[0])], seen.request()
    if not seen.is_stream:
        answer = dialect.answer(request, "m", 200, seen.answer)
        if isinstance(answer, EngineResponse):
            yield WHOLE[request.operation], orjson.loads(answer.body)
        return
    decoder = dialect.stream(request, "m")
    for frame in FrameSplitter().feed(seen.answer):
        shown = decoder.frame(frame)
        if isinstance(shown, Failure):
            return
        if shown and shown != DONE and (data := data_of(shown)) is not None:
            yield STREAMED[request.operation], orjson.loads(data)


@pytest.mark.parametrize("seen", exchanges(), ids=lambda seen: seen.name)
def test_recorded_responses_validate_as_the_clients_types(seen: Recording) -> None:
    for kind, document in documents(seen):
        try:
            kind.model_validate(document, strict=True)
        except ValidationError as exc:
            assert all(ITS_OWN & set(error["loc"]) for error in exc.errors()), exc  # noqa: PT017 - most have none

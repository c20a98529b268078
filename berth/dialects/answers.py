"""What the dialects share: the body of a request, and the reading of a non-streaming response."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from berth import json_text
from berth.canonical import (
    CHAT,
    EMBEDDING,
    MEDIA,
    EngineResponse,
    Failure,
    InferenceRequest,
    Json,
    Operation,
    UpstreamRequest,
)
from berth.dialects import pooling, tokenize
from berth.dialects.choices import read_choices
from berth.dialects.embeddings import read_embeddings, read_unparsed
from berth.dialects.failures import (
    MISSING_ENDPOINT,
    Judge,
    engine_failure,
    failure_of,
    judge_by_status,
    unsupported_failure,
)
from berth.dialects.media import read_media
from berth.dialects.requests.turns import in_order
from berth.dialects.requests.values import CHECKED, plain_values
from berth.errors import InvalidRequestError

PATHS: Final = {
    Operation.CHAT: "/v1/chat/completions",
    Operation.COMPLETION: "/v1/completions",
    Operation.EMBEDDING: "/v1/embeddings",
}
_LIMITS: Final = ("max_completion_tokens", "max_tokens")  # the first counts where a chat has both
# Operations that OpenAI's API does not have: an engine without a path for one has not failed.
_READERS: Final[Mapping[Operation, Callable[[Any], EngineResponse]]] = {
    Operation.TOKENIZE: tokenize.read_tokens,
    Operation.DETOKENIZE: tokenize.read_text,
    Operation.RERANK: pooling.read_ranks,
    Operation.SCORE: pooling.read_scores,
    Operation.CLASSIFY: pooling.read_classes,
}
_MOST_ODD_VALUES: Final = 50_000  # of a request that orjson does not write
_LISTS: Final = frozenset({Operation.RERANK, Operation.SCORE})  # SGLang returns a JSON list for them


def upstream_body(request: InferenceRequest, served_name: str) -> Json:
    """A copy of the body for the engine: with its own name for the model, plain values, and usage in every stream."""
    body = {**request.body, "model": served_name}
    if None in body.values() or not CHECKED.isdisjoint(body):
        body = plain_values(body)
    if request.operation is CHAT and "messages" in body:
        body["messages"] = in_order(body["messages"])
    if request.stream:
        options: Json = {"include_usage": True}
        if request.include_usage and (body.get("stream_options") or {}).get("continuous_usage_stats"):
            options["continuous_usage_stats"] = True
        body["stream_options"] = options
    return body


def with_limit(body: Json, names: tuple[str, ...]) -> Json:
    """The chat with its limit of tokens under these names only, if it has one: servers know one or the other, or
    reject both at once.
    """
    limits = [body[name] for name in _LIMITS if body.get(name) is not None]
    rest = {name: value for name, value in body.items() if name not in _LIMITS}
    return {**rest, **dict.fromkeys(names, limits[0])} if limits else rest


def upstream_request(request: InferenceRequest, body: Json, ignored: tuple[str, ...] = ()) -> UpstreamRequest:
    try:
        written = orjson.dumps(body, default=json_text.spelled)
    except orjson.JSONEncodeError:
        try:
            written = json_text.whole_characters(json_text.spelled_out(body, most=_MOST_ODD_VALUES))
        except ValueError as exc:
            message = f"A request with integers beyond 64 bits or lone surrogates must not have {exc}."
            raise InvalidRequestError(message) from exc
    return UpstreamRequest(path=PATHS[request.operation], body=written, ignored=ignored)


def read_answer(
    request: InferenceRequest,
    model: str,
    status: int,
    body: bytes,
    *,
    judge: Judge = judge_by_status,
) -> EngineResponse | Failure:
    """An engine's non-streaming response, normalised. The bytes stay as they are where nothing needs a change."""
    if request.operation is MEDIA:
        return read_media(request, status, body, judge)
    if request.operation in _READERS and status in MISSING_ENDPOINT:
        message = f"the engine does not support {request.operation} for this model (it returned {status})"
        return unsupported_failure(message, "model")
    if not 200 <= status < 300:
        return failure_of(status, body, judge=judge)
    try:
        return _read_body(request, model, body, judge)
    except orjson.JSONDecodeError as exc:
        return engine_failure(f"the engine's response is not JSON: {exc}")
    except Exception as exc:  # noqa: BLE001 - what engines send is beyond any list of exceptions
        return engine_failure(f"unexpected response from the engine: {exc!r}")


def _read_body(request: InferenceRequest, model: str, body: bytes, judge: Judge) -> EngineResponse | Failure:
    """KeyError and the like where the body is not a response to such a request."""
    operation = request.operation
    if operation is EMBEDDING and (unparsed := read_unparsed(request, model, body)):
        return unparsed
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document, body = json_text.loads(body), json_text.for_all_readers(body)
    if isinstance(document, list) and operation in _LISTS:
        return _READERS[operation](document)
    if not isinstance(document, dict):
        return engine_failure("the engine's response is not a JSON object; it may be stopping after a crash")
    if document.get("error") or document.get("object") == "error":
        return failure_of(500, body, judge=judge)
    if operation in _READERS:
        return _READERS[operation](document)
    read = read_embeddings if operation is EMBEDDING else read_choices
    return read(request, model, document, body)

"""What the dialects share: the body of a request, and the reading of a whole answer."""

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from berth.canonical import (
    EngineResponse,
    Failure,
    FailureKind,
    InferenceRequest,
    Json,
    Operation,
    UpstreamRequest,
    Usage,
)
from berth.dialects import pooling, tokenize
from berth.dialects.embeddings import converted, has_form, wants_base64
from berth.dialects.failures import Judge, client_fault, engine_failure, failure_of
from berth.dialects.media import read_media
from berth.dialects.stream_decoder import check_types, double_reasoning, usage_in

PATHS: Final = {
    Operation.CHAT: "/v1/chat/completions",
    Operation.COMPLETION: "/v1/completions",
    Operation.EMBEDDING: "/v1/embeddings",
}

# What OpenAI has no API for: an engine may have no path for it, and that is no fault of the engine's.
_ABSENT: Final = frozenset({404, 405, 501})
_READERS: Final[Mapping[Operation, Callable[[Any], EngineResponse]]] = {
    Operation.TOKENIZE: tokenize.read_tokens,
    Operation.DETOKENIZE: tokenize.read_text,
    Operation.RERANK: pooling.read_ranks,
    Operation.SCORE: pooling.read_scores,
    Operation.CLASSIFY: pooling.read_classes,
}
_LISTED: Final = frozenset({Operation.RERANK, Operation.SCORE})  # SGLang's rankings are no objects
# Vectors are long, so an answer that holds them is parsed only if it must be.
_USAGE_OBJECT: Final = re.compile(rb'"usage":(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


def upstream_body(request: InferenceRequest, served_name: str) -> Json:
    """A copy of the body for the engine: its own name for the model, and usage always asked for in a stream."""
    body = {**request.body, "model": served_name}
    if request.stream:
        options: Json = {"include_usage": True}
        if request.include_usage and (body.get("stream_options") or {}).get("continuous_usage_stats"):
            options["continuous_usage_stats"] = True
        body["stream_options"] = options
    return body


def upstream_request(request: InferenceRequest, body: Json, ignored: tuple[str, ...] = ()) -> UpstreamRequest:
    return UpstreamRequest(path=PATHS[request.operation], body=orjson.dumps(body), ignored=ignored)


def name_reasoning(body: Json, name: str) -> None:
    """The reasoning of earlier turns under the name that the engine reads; clients send either, or both."""
    messages = body.get("messages") or []
    if any("reasoning" in message or "reasoning_content" in message for message in messages):
        body["messages"] = [_with_reasoning(message, name) for message in messages]


def _with_reasoning(message: Json, name: str) -> Json:
    text = message.get("reasoning") or message.get("reasoning_content")
    rest = {key: value for key, value in message.items() if key not in ("reasoning", "reasoning_content")}
    return {**rest, name: text} if text and name else rest


def read_answer(
    request: InferenceRequest,
    model: str,
    status: int,
    body: bytes,
    *,
    judge: Judge = client_fault,
) -> EngineResponse | Failure:
    """The whole answer of an engine, normalised; the bytes stay as they are where nothing needs a change."""
    if request.operation is Operation.MEDIA:
        return read_media(request, status, body, judge)
    if not 200 <= status < 300:
        absent = request.operation in _READERS and status in _ABSENT
        return _absent(request.operation, status) if absent else failure_of(status, body, judge=judge)
    if request.operation is Operation.EMBEDDING and _is_as_wanted(request, model, body):
        return EngineResponse(body=body, usage=_usage_of(body))
    return _read_json(request, model, body, judge)


def _read_json(request: InferenceRequest, model: str, body: bytes, judge: Judge) -> EngineResponse | Failure:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        return engine_failure(f"the engine's answer is not JSON: {exc}")
    if isinstance(document, dict) and (document.get("error") or document.get("object") == "error"):
        return failure_of(500, body, judge=judge)
    try:
        return _read(request, model, document, body)
    except (AttributeError, KeyError, TypeError, ValueError, struct.error) as exc:
        return engine_failure(f"the engine's answer is not as expected: {exc!r}")


def _read(request: InferenceRequest, model: str, document: Any, body: bytes) -> EngineResponse | Failure:
    """KeyError and its like for what is no answer."""
    if isinstance(document, list) and request.operation in _LISTED:
        return _READERS[request.operation](document)
    if not isinstance(document, dict):
        return engine_failure("the engine answered with no JSON object: it is stopping after a crash")
    if reader := _READERS.get(request.operation):
        return reader(document)
    if request.operation is Operation.EMBEDDING:
        return _read_embeddings(request, model, document, body)
    return _read_choices(request, model, document, body)


def _absent(operation: Operation, status: int) -> Failure:
    return Failure(
        kind=FailureKind.UNSUPPORTED,
        status=400,
        message=f"the engine does not {operation} with this model (it answered {status})",
        type="invalid_request_error",
        param="model",
    )


def _is_as_wanted(request: InferenceRequest, model: str, body: bytes) -> bool:
    """A byte test for embeddings: an object, of this name, with vectors in the form asked for."""
    return (
        body.startswith(b"{")
        and body.endswith(b"}")
        and b'"model":' + orjson.dumps(model) in body
        and has_form(body, as_base64=wants_base64(request.body))
    )


def _usage_of(body: bytes) -> Usage:
    found = _USAGE_OBJECT.search(body)
    try:
        return usage_in(orjson.loads(found[1])) if found else Usage()
    except orjson.JSONDecodeError:
        return Usage()


def _read_embeddings(request: InferenceRequest, model: str, document: Json, body: bytes) -> EngineResponse:
    shown = converted(document, as_base64=wants_base64(request.body))
    changed = shown["data"] != document["data"] or document.get("model") != model
    shown["model"] = model
    return EngineResponse(body=orjson.dumps(shown) if changed else body, usage=usage_in(document.get("usage") or {}))


def _read_choices(request: InferenceRequest, model: str, document: Json, body: bytes) -> EngineResponse | Failure:
    choices = document.get("choices")
    if not choices:
        return engine_failure("the engine's answer has no choices")
    if any(choice.get("finish_reason") == "abort" for choice in choices):
        return engine_failure("the engine aborted the request")
    changed = document.get("model") != model
    document["model"] = model
    changed |= _drop_foreign_metadata(document)
    one_call = request.body.get("parallel_tool_calls") is False  # not all engines keep to it
    for choice in choices:
        check_types(choice)
        changed |= _normalise(choice)
        if one_call:
            changed |= _with_one_call(choice)
    return EngineResponse(body=orjson.dumps(document) if changed else body, usage=usage_in(document.get("usage") or {}))


def _drop_foreign_metadata(document: Json) -> bool:
    """SGLang has versions of weights where OpenAI has the client's own words. True: something was changed."""
    metadata = document.get("metadata")
    foreign = isinstance(metadata, dict) and any(not isinstance(value, str) for value in metadata.values())
    if foreign:
        del document["metadata"]
    return foreign


def _with_one_call(choice: dict[str, Any]) -> bool:
    """True: something was changed."""
    calls = (choice.get("message") or {}).get("tool_calls") or []
    several = len(calls) > 1
    del calls[1:]
    return several


def _normalise(choice: dict[str, Any]) -> bool:
    """True: something was changed."""
    message = choice.get("message")
    if not isinstance(message, dict):
        return False
    changed = double_reasoning(message)
    if message.get("tool_calls") == []:  # some clients take the key alone for a call
        del message["tool_calls"]
        return True
    if message.get("tool_calls") and choice.get("finish_reason") == "stop":
        choice["finish_reason"] = "tool_calls"
        return True
    return changed

"""Error responses of all engines, in any of their forms, read into a Failure: what went wrong, and whose fault it is.

Known forms: `{"error": {...}}` (vLLM), flat `{"object": "error", ...}` (SGLang, TensorRT-LLM), `{"error": "text"}`
(API keys, later TensorRT-LLM), `{"detail": ...}` (routes of FastAPI), plain text (crashes).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from berth import json_text
from berth.canonical import Failure, FailureKind
from berth.errors import ApiError, LoopDetectedError, OverloadedError

LONGEST_MESSAGE = 1000
_LONGEST_READ = 4 * LONGEST_MESSAGE  # of an engine's message: the rest is a traceback or useless

_CONTEXT = re.compile(
    r"maximum context length"  # vLLM
    r"|cannot be greater than max_model_len"  # vLLM: max_tokens alone is too much
    r"|longer than the model's context length"  # SGLang
    r"|Requested token count exceeds"  # SGLang: prompt and max_tokens together
    r"|should not exceed max_(?:seq_len|num_tokens|input_len)"  # TensorRT-LLM
    r"|exceeds? (?:the )?max_(?:seq_len|num_tokens|input_len)"
    r"|context[ _]length[ _]exceeded",
    re.IGNORECASE,
)
# Messages of an engine that was started without a feature: another engine may have it.
_UNSUPPORTED = re.compile(
    r"--enable-auto-tool-choice|LoRA is not enabled|Extra inputs are not permitted|extra_forbidden", re.IGNORECASE
)
_ENGINE_FAULT = re.compile(r"Out of range float values are not JSON compliant")  # NaN in vLLM's response
# Statuses that mean the same whatever the message is. 508 is another Berth's: to try others would continue the circle.
_BY_STATUS: Mapping[int, type[ApiError]] = {429: OverloadedError, 503: OverloadedError, 508: LoopDetectedError}
MISSING_ENDPOINT = frozenset({404, 405, 501})  # statuses of an engine that has no such path
_TRACEBACK = re.compile(r'\n\s*+(?:File "[^"]*", line \d+|Traceback \(most recent call last\)).*', re.DOTALL)
_SERVER_PATH = re.compile(r"(?<![\w:/.])/(?:[\w.+-]+/)+([\w.+-]+)")

Classifier = Callable[[str], FailureKind]


def classify_rejection(message: str) -> FailureKind:
    """What an engine's 400, 413 or 422 with this message means, for engines whose 400 can be trusted."""
    if _ENGINE_FAULT.search(message):
        return FailureKind.ENGINE
    return FailureKind.UNSUPPORTED if _UNSUPPORTED.search(message) else FailureKind.CLIENT


def failure_of(status: int, body: bytes, *, classify: Classifier = classify_rejection) -> Failure:
    """The Failure for an error response."""
    try:
        document = json_text.loads(body)
    except orjson.JSONDecodeError:
        document = body.decode(errors="replace")
    return failure_in(document, status, classify=classify)


def failure_in(document: Any, status: int, *, classify: Classifier = classify_rejection) -> Failure:
    """The Failure for a parsed error document, e.g. from a frame inside a stream."""
    error = document.get("error") if isinstance(document, dict) else document
    if error is None and isinstance(document, dict):
        error = document if "message" in document else {"message": document.get("detail")}
    if not isinstance(error, dict):
        error = {"message": error}
    message = clean(error.get("message")) or f"the engine returned {status} without a message"
    if (error_class := _BY_STATUS.get(status)) is not None:
        return Failure(
            kind=FailureKind.OVERLOADED if error_class is OverloadedError else FailureKind.CLIENT,
            status=error_class.status,
            message=message,
            type=error_class.type,
            code=error_class.code,
        )
    if status not in {400, 413, 422}:  # 401, 403, 404 and 405 included: Berth's request was wrong
        return engine_failure(message)
    if _CONTEXT.search(message):
        return _client_failure(message, error, status=400, code="context_length_exceeded")
    kind = classify(message)
    if kind is FailureKind.CLIENT:
        return _client_failure(message, error, status=413 if status == 413 else 400, code=None)
    if kind is FailureKind.UNSUPPORTED:
        return unsupported_failure(message, _text(error.get("param")))
    return engine_failure(message)


def engine_failure(message: str) -> Failure:
    """The engine is at fault: the client gets 502 if no other engine can serve the request."""
    return Failure(
        kind=FailureKind.ENGINE,
        status=502,
        message=message[: LONGEST_MESSAGE + 4],  # and " ..."; it may quote what the engine sent
        type="upstream_error",
        code="engine_failed",
    )


def unsupported_failure(message: str, param: str | None) -> Failure:
    """The engine cannot do it, another may: the client gets 400 if none can."""
    return Failure(kind=FailureKind.UNSUPPORTED, status=400, message=message, type="invalid_request_error", param=param)


def unfit_failure(problem: str) -> Failure:
    """A complete response that is not what was requested: the engine is healthy, and another one may do better."""
    return Failure(kind=FailureKind.ENGINE, status=502, message=problem, type="upstream_error", code="schema_not_kept")


def clean(message: Any) -> str:
    """The message without tracebacks and without the folders of paths, which are the server's own."""
    if message is None:
        return ""
    if not isinstance(message, str):  # FastAPI's `detail` may be a list of objects
        try:
            message = orjson.dumps(message).decode()
        except orjson.JSONEncodeError:  # nested too deeply
            return ""
    text = _SERVER_PATH.sub(r"\1", _TRACEBACK.sub("", message[:_LONGEST_READ])).strip()
    return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + " ..."


def _client_failure(message: str, error: dict[str, Any], *, status: int, code: str | None) -> Failure:
    param = _text(error.get("param"))
    return Failure(
        kind=FailureKind.CLIENT,
        status=status,
        message=message,
        type="invalid_request_error",
        code=code or _text(error.get("code")),  # vLLM and SGLang write the status there, as a number
        param=param.removeprefix("body.") if param else None,
    )


def _text(value: Any) -> str | None:
    return value[:LONGEST_MESSAGE] if isinstance(value, str) and value else None

"""Error responses of all engines, in any of their forms, read into a Failure: what went wrong, and whose fault it is.

Known forms: `{"error": {...}}` (vLLM), flat `{"object": "error", ...}` (SGLang, TensorRT-LLM), `{"error": "text"}`
(API keys, later TensorRT-LLM), `{"detail": ...}` (routes of FastAPI), plain text (crashes).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from berth import json_text
from berth.canonical import Failure, FailureKind, Json
from berth.errors import LoopDetectedError

LONGEST_MESSAGE = 1000
_LONGEST_READ = 4 * LONGEST_MESSAGE  # of an engine's message: the rest is a traceback or useless

_CONTEXT = re.compile(
    r"maximum context length"  # vLLM, llama-cpp-python
    r"|cannot be greater than max_model_len"  # vLLM: max_tokens alone is too much
    r"|longer than the model's context length"  # SGLang
    r"|Requested token count exceeds"  # SGLang: prompt and max_tokens together
    r"|should not exceed max_(?:seq_len|num_tokens|input_len)"  # TensorRT-LLM
    r"|exceeds? (?:the )?max_(?:seq_len|num_tokens|input_len)"
    r"|exceeds? the available context size"  # llama.cpp
    r"|ContextWindowExceededError"  # LiteLLM
    r"|`inputs` (?:tokens \+ `max_new_tokens` must be|must have less than)"  # TGI
    r"|context[ _]length[ _]exceeded",
    re.IGNORECASE,
)
# Messages of an engine that was started without a feature: another engine may have it.
_UNSUPPORTED = re.compile(
    r"--enable-auto-tool-choice|LoRA is not enabled|Extra inputs are not permitted|extra_forbidden", re.IGNORECASE
)
_ENGINE_FAULT = re.compile(r"Out of range float values are not JSON compliant")  # NaN in vLLM's response
# The words of a 503 at capacity, and of one that loads. Any other 503 is a server that stops, or has crashed.
_FULL = re.compile(r"\b(?:busy|full|overloaded|capacity|queue|too many|rate limit|throttled)\b", re.IGNORECASE)
_LOADING = re.compile(
    r"\b(?:loading|starting(?: up)?|initiali[sz]ing|warming up|not (?:yet )?(?:ready|loaded))\b", re.IGNORECASE
)
_LOADING_CODE = "model_not_ready"  # of another Berth
_REJECTED: Final = frozenset({400, 413, 422})
_REFUSED: Final = frozenset({401, 402, 403})  # of Berth's own key, or of the account that it belongs to
# A name for the model that the server does not know: Berth's own, which clients do not choose.
_NO_MODEL: Final = re.compile(
    r"^(?:the )?model:? [`'\"]?[^`'\"\s]{1,300}[`'\"]?,? (?:was |is )?(?:not found|not loaded|does not exist)",
    re.IGNORECASE,
)
MISSING_ENDPOINT = frozenset({404, 405, 501})  # statuses of an engine that has no such path
_TRACEBACK = re.compile(r'\n\s*+(?:File "[^"]*", line \d+|Traceback \(most recent call last\)).*', re.DOTALL)
_SERVER_PATH = re.compile(r"(?<![\w:/.])/(?:[\w.+-]+/)+([\w.+-]+)")
_FOR_CLIENTS: Final = {  # status, type and code where no other engine can serve the request
    FailureKind.OVERLOADED: (429, "rate_limit_error", "overloaded"),
    FailureKind.LOADING: (503, "service_unavailable", _LOADING_CODE),
    FailureKind.CONFIG: (502, "upstream_error", "engine_failed"),
}
CONFIG_HINT: Final = "check this engine's `api_key`, `model` and `url` in BERTH_MODELS"

Judge = Callable[[int, str, Json], FailureKind]  # of an error response: its status, message, and `error` object


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRule:
    """What an error response with one of these statuses and with these words means.

    A message may quote the client. Words that blame the server or its operator have to be anchored at the beginning of
    the message, or a client could eject a healthy server.
    """

    statuses: frozenset[int]
    words: re.Pattern[str]
    kind: FailureKind


# What servers say that are attached in OpenAI's own API, whose statuses alone do not show whose fault an error is.
ERROR_RULES: Final = (
    ErrorRule(  # llama.cpp, and LiteLLM in front of it: 500; mlx_lm.server: 404
        statuses=frozenset({400, 404, 415, 422, 500, 501}),
        words=re.compile(
            r"(?:image|audio|video)s?(?: input)?s? (?:is|are) not supported"
            r"|Only 'text' content type is supported"
            r"|does not support (?:image|audio|video|vision|multimodal)"
            r"|mmproj",
            re.IGNORECASE,
        ),
        kind=FailureKind.UNSUPPORTED,
    ),
    ErrorRule(  # a server of images or embeddings has no chats; where the URL is wrong, control finds nothing at all
        statuses=MISSING_ENDPOINT,
        words=re.compile(
            r"^(?:File )?Not Found\.?$|^Method Not Allowed$|^This server does not support ", re.IGNORECASE
        ),
        kind=FailureKind.UNSUPPORTED,
    ),
    ErrorRule(  # llama.cpp: a chat template that refuses the messages
        statuses=frozenset({400, 500}),
        words=re.compile(r"Jinja Exception|roles must alternate|only user and assistant roles", re.IGNORECASE),
        kind=FailureKind.UNSUPPORTED,
    ),
    ErrorRule(  # transformers serve: with the names of the fields
        statuses=frozenset({400, 422}),
        words=re.compile(r"^Unexpected (?:fields|keys) in the request"),
        kind=FailureKind.UNSUPPORTED,
    ),
    ErrorRule(  # gateways that check what users write
        statuses=frozenset({403}),
        words=re.compile(r"moderation|content (?:policy|filter)|flagged", re.IGNORECASE),
        kind=FailureKind.CLIENT,
    ),
    ErrorRule(
        statuses=frozenset({400}),  # llama.cpp's router, transformers serve, LiteLLM
        words=re.compile(
            rf"{_NO_MODEL.pattern}|^Server is pinned to |^(?:[\w/]{{1,40}}: )?Invalid model name passed in model=",
            re.IGNORECASE,
        ),
        kind=FailureKind.CONFIG,
    ),
)


def judge_by_status(status: int, message: str, error: Json) -> FailureKind:
    """What an error response means, for engines whose statuses can be trusted. `message`: "" if it has none."""
    if status == 429:
        return FailureKind.OVERLOADED
    if status == 503:
        return unavailable(message, error)
    if status in _REFUSED or (status == 404 and _NO_MODEL.match(message)):
        return FailureKind.CONFIG
    says_nothing = status != 413 and not error.get("message")  # of a client's mistake, a server says what is wrong
    if status not in _REJECTED or _ENGINE_FAULT.match(message) or says_nothing:
        return FailureKind.ENGINE
    return FailureKind.UNSUPPORTED if _UNSUPPORTED.search(message) else FailureKind.CLIENT


def unavailable(message: str, error: Json) -> FailureKind:
    """What a 503 means."""
    if error.get("code") == _LOADING_CODE:
        return FailureKind.LOADING
    if _FULL.search(message):
        return FailureKind.OVERLOADED
    return FailureKind.LOADING if _LOADING.search(message) else FailureKind.ENGINE


def failure_of(status: int, body: bytes, *, judge: Judge = judge_by_status) -> Failure:
    """The Failure for an error response."""
    try:
        document = json_text.loads(body)
    except orjson.JSONDecodeError:
        document = body.decode(errors="replace")
    return failure_in(document, status, judge=judge)


def failure_in(document: Any, status: int, *, judge: Judge = judge_by_status) -> Failure:
    """The Failure for a parsed error document, e.g. from a frame inside a stream."""
    error = document.get("error") if isinstance(document, dict) else document
    if error is None and isinstance(document, dict):
        error = document if "message" in document else {"message": document.get("detail")}
    if not isinstance(error, dict):
        error = {"message": error}
    message = clean(error.get("message"))
    if status == LoopDetectedError.status:  # another Berth's, which has no one else to ask
        return Failure(
            kind=FailureKind.UNSUPPORTED,
            status=status,
            message=message or f"the engine returned {status} without a message",
            type=LoopDetectedError.type,
            code=LoopDetectedError.code,
        )
    if status in _REJECTED and _CONTEXT.search(message):
        return _client_failure(message, error, status=400, code="context_length_exceeded")
    kind = judge(status, message, error)
    message = message or f"the engine returned {status} without a message"
    if kind is FailureKind.CLIENT:
        return _client_failure(message, error, status=413 if status == 413 else 400, code=None)
    if kind is FailureKind.UNSUPPORTED:
        return unsupported_failure(message, _text(error.get("param")))
    if kind is FailureKind.ENGINE:
        return engine_failure(message)
    if kind is FailureKind.CONFIG:
        message = f"the server refuses Berth's request: {message} ({CONFIG_HINT})"
    answered, type_, code = _FOR_CLIENTS[kind]
    return Failure(kind=kind, status=answered, message=message, type=type_, code=code)


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
        if isinstance(message, list):  # each with the client's own input, whatever its size
            message = [
                {k: v for k, v in one.items() if k != "input"} if isinstance(one, dict) else one for one in message
            ]
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

"""What TGI's clients read: whole answers, the last event of a stream, and errors."""

from typing import Any, Final

import orjson

from berth.canonical import InferenceRequest, Json, Usage
from berth.errors import (
    ApiError,
    AuthenticationError,
    InvalidRequestError,
    NotReadyError,
    OverloadedError,
    UpstreamError,
)

# The engines' answers have texts and probabilities of tokens, but no ids.
NO_ID: Final = 0


def answer(request: InferenceRequest, told: Json) -> Json:
    """Of the canonical answer."""
    choice = told["choices"][0]
    text = choice.get("text") or ""
    shown = request.original["inputs"] + text if request.original.get("return_full_text") else text
    if not request.original.get("details"):
        return {"generated_text": shown}
    usage = told.get("usage") or {}
    details = {
        "finish_reason": finish_reason(choice),
        "generated_tokens": usage.get("completion_tokens") or 0,
        "seed": request.original.get("seed"),
        "prefill": [],
        "tokens": tokens_of(choice),
    }
    return {"generated_text": shown, "details": details}


def tokens_of(choice: Json) -> list[Json]:
    """The tokens that the choice tells, or one of all its text where it tells none."""
    told = choice.get("logprobs") or {}
    texts, values = told.get("tokens") or [], told.get("token_logprobs") or []
    if len(texts) == len(values) and texts:
        return [token(text, value) for text, value in zip(texts, values, strict=True)]
    return [token(choice["text"])] if choice.get("text") else []


def token(text: str, logprob: float | None = None, *, special: bool = False) -> Json:
    return {"id": NO_ID, "text": text, "logprob": logprob or 0.0, "special": special}


def finish_reason(choice: Json) -> str:
    """The string that stopped it is told as `stop_reason` by vLLM and TensorRT-LLM, as `matched_stop` by SGLang."""
    if choice.get("finish_reason") != "stop":
        return "length"
    stopped: Any = choice.get("stop_reason") or choice.get("matched_stop")
    return "stop_sequence" if isinstance(stopped, str) else "eos_token"


def stream_details(reason: str, usage: Usage, seed: int | None) -> Json:
    return {
        "finish_reason": reason,
        "generated_tokens": usage.completion_tokens,
        "input_length": usage.prompt_tokens,
        "seed": seed,
    }


def status(error: ApiError) -> int:
    """TGI's own: 422 for a request that it does not take, 424 for one on which the model failed."""
    if isinstance(error, InvalidRequestError):
        return 422
    return 424 if isinstance(error, UpstreamError) else error.status


def error_type(error: ApiError) -> str:
    """TGI knows no keys: with a type that its client does not know, that raises by the status."""
    kinds: tuple[tuple[type[ApiError], str], ...] = (
        (AuthenticationError, "authentication"),
        (UpstreamError, "generation"),
        (OverloadedError, "overloaded"),
        (NotReadyError, "healthcheck"),
    )
    rest = "validation" if error.status < 500 else "generation"
    return next((name for kind, name in kinds if isinstance(error, kind)), rest)


def error_body(error: ApiError, *, cut: bool = False) -> bytes:
    """`cut`: the answer had begun."""
    kind = "incomplete_generation" if cut else error_type(error)
    return orjson.dumps({"error": error.message, "error_type": kind})

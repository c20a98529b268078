"""TGI's responses, the details of a stream's last event, and errors."""

from typing import Any, Final

from berth import json_text
from berth.canonical import InferenceRequest, Json, Usage
from berth.errors import (
    ApiError,
    AuthenticationError,
    InvalidRequestError,
    NotReadyError,
    OverloadedError,
    RateLimitError,
    UpstreamError,
)

# Engines return the texts and probabilities of tokens, but not their ids.
NO_ID: Final = 0


def response_of(request: InferenceRequest, canonical: Json) -> Json:
    choice = canonical["choices"][0]
    text = choice.get("text") or ""
    if request.original.get("return_full_text"):
        text = request.original["inputs"] + text
    if not request.original.get("details"):
        return {"generated_text": text}
    usage = canonical.get("usage") or {}
    details = {
        "finish_reason": finish_reason(choice),
        "generated_tokens": usage.get("completion_tokens") or 0,
        "seed": request.original.get("seed"),
        "prefill": [],
        "tokens": tokens_of(choice),
    }
    return {"generated_text": text, "details": details}


def tokens_of(choice: Json) -> list[Json]:
    """The tokens of the choice's logprobs; without logprobs, one token with all its text."""
    logprobs = choice.get("logprobs") or {}
    texts, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    if len(texts) == len(values) and texts:
        return [token(text, value) for text, value in zip(texts, values, strict=True)]
    return [token(choice["text"])] if choice.get("text") else []


def token(text: str, logprob: float | None = None, *, special: bool = False) -> Json:
    return {"id": NO_ID, "text": text, "logprob": logprob or 0.0, "special": special}


def finish_reason(choice: Json) -> str:
    """VLLM and TensorRT-LLM report a matched stop string as `stop_reason`, SGLang as `matched_stop`."""
    if choice.get("finish_reason") != "stop":
        return "length"
    matched: Any = choice.get("stop_reason") or choice.get("matched_stop")
    return "stop_sequence" if isinstance(matched, str) else "eos_token"


def stream_details(reason: str, usage: Usage, seed: int | None) -> Json:
    return {
        "finish_reason": reason,
        "generated_tokens": usage.completion_tokens,
        "input_length": usage.prompt_tokens,
        "seed": seed,
    }


def status(error: ApiError) -> int:
    """TGI's own statuses: 422 for an invalid request, 424 where the model failed."""
    if isinstance(error, InvalidRequestError):
        return 422
    return 424 if isinstance(error, UpstreamError) else error.status


def error_type(error: ApiError) -> str:
    """TGI has no API keys: its client does not know the type `authentication`, and raises by the status."""
    kinds: tuple[tuple[type[ApiError], str], ...] = (
        (AuthenticationError, "authentication"),
        (UpstreamError, "generation"),
        (OverloadedError, "overloaded"),
        (RateLimitError, "overloaded"),
        (NotReadyError, "healthcheck"),
    )
    rest = "validation" if error.status < 500 else "generation"
    return next((name for kind, name in kinds if isinstance(error, kind)), rest)


def error_body(error: ApiError, *, incomplete: bool = False) -> bytes:
    """`incomplete`: part of the response was sent."""
    kind = "incomplete_generation" if incomplete else error_type(error)
    return json_text.dumps({"error": error.message, "error_type": kind, **error.extension})

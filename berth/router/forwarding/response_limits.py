"""Limits of an engine's response, in proportion to the request. Pure.

An endless response would take the memory of the worker, and with it every other request. The limits are several times
what a real response needs: exceeding one is a failure of the engine, and another one gets the request.
"""

from typing import Any, Final

from berth.canonical import InferenceRequest, Json, Operation
from berth.dialects.base import LONGEST_FRAME_BYTES
from berth.dialects.choices import expected_choices

_MIB: Final = 1 << 20

MAX_RESPONSE_BYTES: Final = 512 * _MIB  # for any request: 2048 embeddings of 8192 numbers take 350 MiB
HELD_BACK_BYTES: Final = 4 * _MIB  # frames before the first with content: a role and a few comments take 1 KiB

SMALL_BYTES: Final = 4 * _MIB  # names, usage, timings: within every limit
_PER_ASKED_BYTE: Final = 8  # a prompt that comes back, as text (escaped: six times) or as token ids
_PER_ASKED_BYTE_OF_TOKENS: Final = 32  # of tokenize and detokenize: ids and texts of tokens, up to one per byte
_PER_TOKEN_BYTES: Final = 256  # in a non-streaming response; text takes about 5, and reasoning is sent twice
_PER_FRAME_BYTES: Final = 1024  # of a stream, a frame per token; vLLM's and SGLang's take about 300
_PER_LOGPROB_BYTES: Final = 128  # of one token; with its text and its bytes it takes about 70
_TOKENS_UNBOUNDED: Final = 262_144  # of a response, if neither the request nor the model limits it
_PER_VECTOR_BYTES: Final = 512 << 10  # 16,384 numbers with all their digits
_PER_CLASSIFIED_BYTES: Final = 64 << 10  # 3,000 labels
_PER_MEDIUM_BYTES: Final = 64 * _MIB  # an uncompressed picture of 4096 x 4096 as base64; ten minutes of sound
_SOUND_PER_ASKED_BYTE: Final = 4 << 10  # 24 kHz, 16 bit, 15 letters a second take 3,200
_TEXTS: Final = frozenset({Operation.CHAT, Operation.COMPLETION})


def response_bytes(request: InferenceRequest, asked_bytes: int, tokens: int | None, *, streamed: bool) -> int:
    """Of the whole body. `asked_bytes`: of the engine's request; `tokens`: of a choice at most; None: unknown."""
    body = request.body
    if request.operation in _TEXTS:
        if _returns_more(body):
            return MAX_RESPONSE_BYTES
        per_token = (_PER_FRAME_BYTES if streamed else _PER_TOKEN_BYTES) + _logprobs(body) * _PER_LOGPROB_BYTES
        of_choice = (tokens or _TOKENS_UNBOUNDED) * per_token + asked_bytes * _of_prompt(body)
        wanted = expected_choices(request) * of_choice
    elif request.media is not None:
        wanted = _media_bytes(request.media.document, asked_bytes)
    elif request.operation is Operation.EMBEDDING:
        wanted = _count(body.get("input")) * _PER_VECTOR_BYTES
    elif request.operation in {Operation.TOKENIZE, Operation.DETOKENIZE}:
        wanted = asked_bytes * _PER_ASKED_BYTE_OF_TOKENS
    else:
        wanted = max(_count(value) for value in (1, *body.values())) * _PER_CLASSIFIED_BYTES
    return min(MAX_RESPONSE_BYTES, SMALL_BYTES + asked_bytes * _PER_ASKED_BYTE + wanted)


def error_bytes(asked_bytes: int) -> int:
    """Of the body of an error: some repeat the request that they reject."""
    return min(MAX_RESPONSE_BYTES, SMALL_BYTES + asked_bytes * _PER_ASKED_BYTE)


def count_bytes(asked_bytes: int) -> int:
    """Of a response to /tokenize."""
    return min(MAX_RESPONSE_BYTES, SMALL_BYTES + asked_bytes * _PER_ASKED_BYTE_OF_TOKENS)


def frame_bytes(request: InferenceRequest, asked_bytes: int) -> int:
    """Of one frame of a stream: a piece of the response, or the prompt with its log probabilities, or a whole sound."""
    if request.media is not None:
        return _PER_MEDIUM_BYTES
    if _returns_more(request.body):
        return MAX_RESPONSE_BYTES
    prompt = asked_bytes * (_PER_ASKED_BYTE + _of_prompt(request.body))
    return min(MAX_RESPONSE_BYTES, LONGEST_FRAME_BYTES + prompt)


def _media_bytes(document: Json | None, asked_bytes: int) -> int:
    """A recording's text, or as many pictures as were asked for, or the sound of a text."""
    if document is None:
        return _PER_MEDIUM_BYTES
    n = document.get("n")
    pictures = n if isinstance(n, int) and n > 0 else 1
    return pictures * _PER_MEDIUM_BYTES + asked_bytes * _SOUND_PER_ASKED_BYTE


def _returns_more(body: Json) -> bool:
    """SGLang's return_hidden_states and the like, or the log probabilities of all tokens there are (-1)."""
    return _logprobs(body) < 0 or any(value and name.startswith("return_") for name, value in body.items())


def _of_prompt(body: Json) -> int:
    """Bytes for the log probabilities of its tokens, for each byte of the prompt: that may be a token."""
    return _logprobs(body) * _PER_LOGPROB_BYTES if body.get("echo") or body.get("prompt_logprobs") is not None else 0


def _logprobs(body: Json) -> int:
    """How many there are for each token; less than 0: for all tokens that the model knows."""
    found = [body.get(name) for name in ("logprobs", "top_logprobs", "prompt_logprobs")]
    numbers = [value for value in found if isinstance(value, int)]  # True is one
    return min(numbers) if min(numbers, default=0) < 0 else max(numbers, default=-1) + 1


def _count(inputs: Any) -> int:
    return max(1, len(inputs)) if isinstance(inputs, list) else 1

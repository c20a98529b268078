"""Requests that must not reach an engine: some kill it, for all clients. Checked before any dialect is asked."""

from collections.abc import Mapping
from typing import Any

from berth.canonical import InferenceRequest, Operation
from berth.dialects import tokenize
from berth.dialects.base import UnsupportedError
from berth.errors import InvalidRequestError
from berth.plan import DialectName, Task

MOST_LOGPROBS = 20
_LOGPROBS = ("top_logprobs", "logprobs", "prompt_logprobs")
_ID_FIELDS: Mapping[Operation, str] = {Operation.EMBEDDING: "input", Operation.DETOKENIZE: "tokens"}
_COMPARED = frozenset({Operation.RERANK, Operation.SCORE})
# What models of each task may do: of audio and images only their servers know.
_ANY = tokenize.TOKENS | {Operation.MEDIA}
_SERVED: Mapping[Task, frozenset[Operation]] = {
    Task.GENERATE: _ANY | {Operation.CHAT, Operation.COMPLETION},
    Task.EMBED: _ANY | _COMPARED | {Operation.EMBEDDING},
    Task.RERANK: _ANY | _COMPARED | {Operation.CLASSIFY},
    Task.CLASSIFY: _ANY | {Operation.CLASSIFY},
}
_WHAT_IT_DOES: Mapping[Task, str] = {
    Task.GENERATE: "generates text and makes no embeddings or scores. Ask /v1/chat/completions or /v1/completions",
    Task.EMBED: "makes embeddings, no text. Ask /v1/embeddings, /v1/rerank or /v1/score",
    Task.RERANK: "compares texts, and makes none. Ask /v1/rerank, /v1/score or /v1/classify",
    Task.CLASSIFY: "classifies texts, and makes none. Ask /v1/classify",
}


def check(
    request: InferenceRequest, *, vocab_size: int | None, task: Task | None, dialect: DialectName | None = None
) -> None:
    """InvalidRequestError for what is wrong on every engine, UnsupportedError for what this one may not be given.

    SGLang dies of token ids outside its vocabulary, of more log probabilities than it has tokens, and of a chat when it
    serves embeddings; vLLM answers 400 to the same. `task` of the model; None: a request that needs no check.
    """
    if task is None:
        return
    _check_task(request, task, dialect)
    _check_logprobs(request.body, vocab_size)
    _check_token_ids(request, vocab_size, dialect)


def serves(task: Task, operation: Operation) -> bool:
    """Whether models of the task can do it at all."""
    return operation in _SERVED[task]


def check_media(request: InferenceRequest) -> None:
    """InvalidRequestError for what an engine would have to fetch: for machines that are to fetch nothing."""
    for place, message in enumerate(request.body.get("messages") or ()):
        _check_parts(message.get("content"), f"messages.{place}.content")
    if request.media is not None and request.media.document is not None:
        _check_parts(request.media.document.get("input"), "input")  # of a moderation


def _check_parts(content: Any, field: str) -> None:
    for number, part in enumerate(content if isinstance(content, list) else ()):
        kind = str(part.get("type")) if isinstance(part, dict) else ""
        source = part.get(kind) if kind.endswith("_url") else None
        url = source.get("url") if isinstance(source, dict) else source
        if isinstance(url, str) and url.lower().startswith(("http:", "https:", "file:")):
            raise InvalidRequestError(
                "This server is offline (BERTH_OFFLINE=1) and fetches nothing: send the content itself, as "
                "'data:image/png;base64,...'.",
                param=f"{field}.{number}",
            )


def _check_task(request: InferenceRequest, task: Task, dialect: DialectName | None) -> None:
    operation = request.operation
    if operation not in _SERVED[task]:
        raise InvalidRequestError(
            f"The model {request.model!r} {_WHAT_IT_DOES[task]}, or another model.",
            param="model",
        )
    if task is Task.EMBED and operation in _COMPARED and dialect is DialectName.SGLANG:
        raise UnsupportedError("SGLang compares texts with rerankers only, not with embeddings", param="model")
    if task is not Task.GENERATE and operation is Operation.TOKENIZE and dialect is DialectName.OPENAI:
        raise UnsupportedError("a server of OpenAI's API alone counts tokens only where it generates", param="model")


def _check_logprobs(body: dict[str, Any], vocab_size: int | None) -> None:
    if body.keys().isdisjoint(_LOGPROBS):
        return
    most = min(MOST_LOGPROBS, vocab_size or MOST_LOGPROBS)
    for name in _LOGPROBS:
        count = body.get(name, 0)
        if isinstance(count, int) and not -1 < count <= most:
            raise InvalidRequestError(f"{name!r} must be between 0 and {most}, not {count}.", param=name)


def _check_token_ids(request: InferenceRequest, vocab_size: int | None, dialect: DialectName | None) -> None:
    name = _ID_FIELDS.get(request.operation, "prompt")
    for field in (name, "prompt_token_ids"):
        value = request.body.get(field)
        for ids in _id_lists(value) if isinstance(value, list) else ():
            _check_range(ids, field, vocab_size)
            if vocab_size is None and dialect is DialectName.SGLANG:
                raise UnsupportedError(
                    "SGLang takes token ids only when the size of its vocabulary is known", param=field
                )


def _check_range(ids: list[int], field: str, vocab_size: int | None) -> None:
    low, high = min(ids), max(ids)
    wrong = low if low < 0 else high
    if low < 0 or (vocab_size is not None and high >= vocab_size):
        allowed = f"between 0 and {vocab_size - 1}" if vocab_size is not None else "0 or more"
        raise InvalidRequestError(f"Token ids in {field!r} must be {allowed}; {wrong} is not.", param=field)


def _id_lists(value: Any) -> list[list[int]]:
    """The lists of token ids in a prompt: it may be one, or hold some; texts are none."""
    if not isinstance(value, list) or not value:
        return []
    if _is_int(value[0]):
        return [value]
    return [item for item in value if isinstance(item, list) and item and _is_int(item[0])]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

"""Checks for requests that must not reach an engine: some crash it, for all clients."""

from collections.abc import Mapping
from typing import Any, Final

from berth.canonical import InferenceRequest, Json, Operation
from berth.dialects import tokenize
from berth.dialects.base import UnsupportedError
from berth.errors import InvalidRequestError
from berth.plan import DialectName, Task

MOST_LOGPROBS = 20
_GENERATE: Final = Task.GENERATE  # see berth.canonical.CHAT
_LOGPROBS = ("top_logprobs", "logprobs", "prompt_logprobs")
_ID_FIELDS: Mapping[Operation, str] = {Operation.EMBEDDING: "input", Operation.DETOKENIZE: "tokens"}
_CHECKED = frozenset({*_LOGPROBS, *_ID_FIELDS.values(), "prompt", "prompt_token_ids"})
_COMPARED = frozenset({Operation.RERANK, Operation.SCORE})
# What models of each task support. Which of them do audio or images only the server knows.
_ANY = tokenize.TOKENS | {Operation.MEDIA}
_SERVED: Mapping[Task, frozenset[Operation]] = {
    Task.GENERATE: _ANY | {Operation.CHAT, Operation.COMPLETION},
    Task.EMBED: _ANY | _COMPARED | {Operation.EMBEDDING},
    Task.RERANK: _ANY | _COMPARED | {Operation.CLASSIFY},
    Task.CLASSIFY: _ANY | {Operation.CLASSIFY},
}
_PURPOSES: Mapping[Task, str] = {
    Task.GENERATE: "generates text, not embeddings or scores. Use /v1/chat/completions or /v1/completions",
    Task.EMBED: "computes embeddings and does not generate text. Use /v1/embeddings, /v1/rerank or /v1/score",
    Task.RERANK: "ranks texts and does not generate any. Use /v1/rerank, /v1/score or /v1/classify",
    Task.CLASSIFY: "classifies texts and does not generate any. Use /v1/classify",
}
_COUNTS = "an OpenAI-compatible server counts tokens only for models that generate text"
_COMPARES = "SGLang compares texts with reranker models only, not with embedding models"
_UNSUPPORTED: Mapping[tuple[DialectName | None, Task, Operation], str] = {
    **{(DialectName.OPENAI, task, Operation.TOKENIZE): _COUNTS for task in Task if task is not _GENERATE},
    **{(DialectName.SGLANG, Task.EMBED, operation): _COMPARES for operation in _COMPARED},
}


def check(
    request: InferenceRequest, *, vocab_size: int | None, task: Task | None, dialect: DialectName | None = None
) -> None:
    """InvalidRequestError for what is wrong on every engine, UnsupportedError for what this engine cannot do.

    SGLang crashes on token ids outside its vocabulary, on more log probabilities than it has tokens, and on a chat when
    it serves embeddings. vLLM rejects the same with 400. `task` of the model; None: the request needs no check.
    """
    if task is None:
        return
    body: Json = request.body
    operation = request.operation
    if operation not in _SERVED[task]:
        raise InvalidRequestError(f"The model {request.model!r} {_PURPOSES[task]}, or another model.", param="model")
    if task is not _GENERATE and (message := _UNSUPPORTED.get((dialect, task, operation))):
        raise UnsupportedError(message, param="model")
    if _CHECKED.isdisjoint(body):
        return  # nearly always
    most = min(MOST_LOGPROBS, vocab_size or MOST_LOGPROBS)
    for name in _LOGPROBS:
        count = body.get(name)
        if isinstance(count, int) and not 0 <= count <= most:
            raise InvalidRequestError(f"{name!r} must be between 0 and {most}, not {count}.", param=name)
    for field in (_ID_FIELDS.get(operation, "prompt"), "prompt_token_ids"):
        if isinstance(body.get(field), list):
            _check_token_ids(body[field], field, vocab_size, dialect)


def serves(task: Task, operation: Operation) -> bool:
    """Whether models of the task support the operation at all."""
    return operation in _SERVED[task]


def _check_token_ids(prompt: list[Any], field: str, vocab_size: int | None, dialect: DialectName | None) -> None:
    """`prompt` is a list of token ids, or contains such lists, or has texts instead."""
    prompts = [prompt] if prompt and type(prompt[0]) is int else prompt
    for ids in prompts:
        if not (isinstance(ids, list) and ids and type(ids[0]) is int):
            continue
        low, high = min(ids), max(ids)
        if low < 0 or (vocab_size is not None and high >= vocab_size):
            allowed = f"between 0 and {vocab_size - 1}" if vocab_size is not None else "0 or more"
            wrong = low if low < 0 else high
            raise InvalidRequestError(f"Token ids in {field!r} must be {allowed}, not {wrong}.", param=field)
        if vocab_size is None and dialect is DialectName.SGLANG:
            message = "SGLang accepts token ids only for models whose vocabulary size is known"
            raise UnsupportedError(message, param=field)

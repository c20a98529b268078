import pytest

from berth.canonical import Json, Operation
from berth.dialects.base import UnsupportedError
from berth.dialects.request_checks import check
from berth.errors import InvalidRequestError
from berth.plan import DialectName, Task
from tests.fakes.recordings import inference_request

CHAT, COMPLETION, EMBEDDING = Operation.CHAT, Operation.COMPLETION, Operation.EMBEDDING
RERANK, SCORE, CLASSIFY = Operation.RERANK, Operation.SCORE, Operation.CLASSIFY
TOKENIZE, DETOKENIZE = Operation.TOKENIZE, Operation.DETOKENIZE

REJECTED: dict[str, tuple[Operation, Json, Task, str]] = {
    "id beyond the vocabulary": (COMPLETION, {"prompt": [1, 384]}, Task.GENERATE, "prompt"),
    "negative id": (COMPLETION, {"prompt": [-1]}, Task.GENERATE, "prompt"),
    "id in a second list": (COMPLETION, {"prompt": [[1], [99999]]}, Task.GENERATE, "prompt"),
    "id to embed": (EMBEDDING, {"input": [99999]}, Task.EMBED, "input"),
    "id in TensorRT-LLM's field": (CHAT, {"prompt_token_ids": [99999]}, Task.GENERATE, "prompt_token_ids"),
    "too many top_logprobs": (CHAT, {"top_logprobs": 21}, Task.GENERATE, "top_logprobs"),
    "negative top_logprobs": (CHAT, {"top_logprobs": -1}, Task.GENERATE, "top_logprobs"),
    "too many logprobs": (COMPLETION, {"logprobs": 5000}, Task.GENERATE, "logprobs"),
    "chat with an embedding server": (CHAT, {}, Task.EMBED, "model"),
    "completion with an embedding server": (COMPLETION, {"prompt": "x"}, Task.EMBED, "model"),
    "embedding from a generating server": (EMBEDDING, {"input": "x"}, Task.GENERATE, "model"),
    "ranking from a generating server": (RERANK, {"query": "x", "documents": ["y"]}, Task.GENERATE, "model"),
    "ranking from a classifier": (RERANK, {"query": "x", "documents": ["y"]}, Task.CLASSIFY, "model"),
    "chat with a reranker": (CHAT, {}, Task.RERANK, "model"),
    "id to turn into text": (DETOKENIZE, {"tokens": [1, 384]}, Task.GENERATE, "tokens"),
}


@pytest.mark.parametrize(("operation", "body", "task", "param"), REJECTED.values(), ids=REJECTED)
def test_rejects_requests_that_crash_an_engine(operation: Operation, body: Json, task: Task, param: str) -> None:
    with pytest.raises(InvalidRequestError) as rejected:
        check(inference_request({"model": "m", **body}, operation), vocab_size=384, task=task)

    assert rejected.value.param == param


@pytest.mark.parametrize(
    ("operation", "body", "task"),
    [
        (COMPLETION, {"prompt": [0, 383]}, Task.GENERATE),
        (COMPLETION, {"prompt": ["text"], "logprobs": 20}, Task.GENERATE),
        (COMPLETION, {"prompt": []}, Task.GENERATE),
        (CHAT, {"logprobs": True, "top_logprobs": 20}, Task.GENERATE),
        (EMBEDDING, {"input": [[1, 2], [3]]}, Task.EMBED),
        (RERANK, {"query": "x", "documents": ["y"]}, Task.EMBED),
        (SCORE, {"text_1": "x", "text_2": "y"}, Task.RERANK),
        (CLASSIFY, {"input": ["x"]}, Task.RERANK),
        (CLASSIFY, {"input": ["x"]}, Task.CLASSIFY),
        (TOKENIZE, {"prompt": "x"}, Task.CLASSIFY),
        (DETOKENIZE, {"tokens": [0, 383]}, Task.EMBED),
    ],
)
def test_accepts_harmless_requests(operation: Operation, body: Json, task: Task) -> None:
    check(inference_request({"model": "m", **body}, operation), vocab_size=384, task=task)  # passes: no exception


def test_logprobs_are_limited_by_a_small_vocabulary() -> None:
    with pytest.raises(InvalidRequestError, match="between 0 and 8"):
        check(inference_request({"model": "m", "top_logprobs": 9}), vocab_size=8, task=Task.GENERATE)


def test_token_ids_with_unknown_vocabulary_are_unsupported_on_sglang() -> None:
    request = inference_request({"model": "m", "prompt": [99999]}, COMPLETION)

    check(request, vocab_size=None, task=Task.GENERATE, dialect=DialectName.VLLM)
    with pytest.raises(UnsupportedError, match="vocabulary"):
        check(request, vocab_size=None, task=Task.GENERATE, dialect=DialectName.SGLANG)
    with pytest.raises(InvalidRequestError, match="0 or more"):
        check(inference_request({"model": "m", "prompt": [-5]}, COMPLETION), vocab_size=None, task=Task.GENERATE)


@pytest.mark.parametrize(
    ("operation", "body", "dialect"),
    [
        (RERANK, {"query": "x", "documents": ["y"]}, DialectName.SGLANG),
        (SCORE, {"text_1": "x", "text_2": "y"}, DialectName.SGLANG),
        (TOKENIZE, {"prompt": "x"}, DialectName.OPENAI),
    ],
)
def test_embedding_model_operations_depend_on_the_engine(
    operation: Operation, body: Json, dialect: DialectName
) -> None:
    request = inference_request({"model": "m", **body}, operation)

    check(request, vocab_size=384, task=Task.EMBED, dialect=DialectName.VLLM)
    with pytest.raises(UnsupportedError):
        check(request, vocab_size=384, task=Task.EMBED, dialect=dialect)

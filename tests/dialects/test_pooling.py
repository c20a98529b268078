from typing import Any

import orjson
import pytest

from berth.canonical import EngineResponse, Failure, FailureKind, Json, Operation
from berth.dialects.answers import read_answer
from berth.dialects.base import Dialect, UnsupportedError
from berth.dialects.openai import OpenaiDialect
from berth.dialects.sglang import SglangDialect
from berth.dialects.trtllm import TrtllmDialect
from berth.dialects.vllm import VllmDialect
from tests.fakes.recordings import inference_request, recording

VLLM, SGLANG, TRTLLM, OPENAI = VllmDialect(), SglangDialect(), TrtllmDialect(), OpenaiDialect()
BODIES: dict[Operation, Json] = {
    Operation.RERANK: {"model": "m", "query": "q", "documents": ["a", "b"], "top_n": 1, "max_tokens_per_doc": None},
    Operation.SCORE: {"model": "m", "text_1": "q", "text_2": ["a", "b"]},
    Operation.CLASSIFY: {"model": "m", "input": ["a", "b"]},
}
RANKED = [
    {"score": 0.9, "index": 1, "meta_info": {"prompt_tokens": 4}},
    {"score": 0.2, "index": 0, "meta_info": {"prompt_tokens": 3}},
]


def asked(dialect: Dialect, operation: Operation, **fields: Any) -> tuple[str, Json]:
    wanted = dialect.request(inference_request({**BODIES[operation], **fields}, operation), "org/m:8b")
    return wanted.path, orjson.loads(wanted.body)


def answered(operation: Operation, body: Any) -> EngineResponse:
    answer = read_answer(inference_request(BODIES[operation], operation), "m", 200, orjson.dumps(body))
    assert isinstance(answer, EngineResponse), answer
    return answer


@pytest.mark.parametrize(
    ("operation", "path"),
    [(Operation.RERANK, "/rerank"), (Operation.SCORE, "/score"), (Operation.CLASSIFY, "/classify")],
)
def test_vllm_gets_the_canonical_body(operation: Operation, path: str) -> None:
    body = {name: value for name, value in BODIES[operation].items() if value is not None}

    assert asked(VLLM, operation) == (path, {**body, "model": "org/m:8b"})
    assert asked(VLLM, operation, use_activation=False)[1]["use_activation"] is False


def test_sglang_scores_by_rerank() -> None:
    ranking = {"query": "q", "documents": ["a", "b"], "return_documents": False}

    assert asked(SGLANG, Operation.RERANK) == ("/v1/rerank", ranking)
    assert asked(SGLANG, Operation.SCORE, text_1=["q"]) == ("/v1/rerank", ranking)
    assert asked(SGLANG, Operation.SCORE, text_2="a") == ("/v1/rerank", {**ranking, "documents": ["a"]})
    assert asked(SGLANG, Operation.CLASSIFY) == ("/v1/classify", {"model": "org/m-8b", "input": ["a", "b"]})
    assert asked(SGLANG, Operation.RERANK, use_activation=True, max_tokens_per_query=0) == ("/v1/rerank", ranking)


@pytest.mark.parametrize(
    ("operation", "fields", "param"),
    [
        (Operation.SCORE, {"text_1": ["a", "b"]}, "text_1"),
        (Operation.RERANK, {"max_tokens_per_doc": 5}, "max_tokens_per_doc"),
        (Operation.RERANK, {"use_activation": False}, "use_activation"),
        (Operation.RERANK, {"truncate_prompt_tokens": -1}, "truncate_prompt_tokens"),
        (Operation.CLASSIFY, {"instruction": "sort"}, "instruction"),
    ],
)
def test_sglang_rejects_unsupported_fields(operation: Operation, fields: Json, param: str) -> None:
    with pytest.raises(UnsupportedError) as rejected:
        asked(SGLANG, operation, **fields)

    assert rejected.value.param == param


@pytest.mark.parametrize("operation", BODIES)
@pytest.mark.parametrize("dialect", [TRTLLM, OPENAI], ids=["trtllm", "openai"])
def test_other_dialects_do_not_support_pooling(dialect: Dialect, operation: Operation) -> None:
    with pytest.raises(UnsupportedError):
        asked(dialect, operation)


def test_recorded_rankings_are_sorted_by_relevance() -> None:
    body = orjson.loads(answered(Operation.RERANK, orjson.loads(recording("vllm/pool/rerank_v2").answer)).body)

    assert [result["index"] for result in body["results"]] == [1, 0]
    assert body["usage"] == {"prompt_tokens": 6, "total_tokens": 6}


def test_reads_sglangs_ranking_as_ranks_and_as_scores() -> None:
    ranks, scores = answered(Operation.RERANK, RANKED[::-1]), answered(Operation.SCORE, RANKED)

    assert orjson.loads(ranks.body)["results"] == [
        {"index": 1, "relevance_score": 0.9},
        {"index": 0, "relevance_score": 0.2},
    ]
    assert orjson.loads(scores.body)["data"] == [{"index": 0, "score": 0.2}, {"index": 1, "score": 0.9}]
    assert ranks.usage.prompt_tokens == scores.usage.prompt_tokens == 7


def test_recorded_scores_keep_the_order_of_texts() -> None:
    answer = answered(Operation.SCORE, orjson.loads(recording("vllm/pool/score").answer))

    assert [item["index"] for item in orjson.loads(answer.body)["data"]] == [0, 1]
    assert answer.usage.prompt_tokens == 6


def test_classes_keep_the_order_of_texts() -> None:
    items = [{"index": 1, "label": None, "probs": [0.5, 0.5]}, {"index": 0, "label": "A", "probs": [1, 0.0]}]
    answer = answered(Operation.CLASSIFY, {"data": items, "usage": {"prompt_tokens": 2}})

    assert [(item["index"], item["label"]) for item in orjson.loads(answer.body)["data"]] == [(0, "A"), (1, None)]


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (Operation.RERANK, []),
        (Operation.RERANK, {"results": [{"index": "0", "score": 1}]}),
        (Operation.RERANK, [{"index": 0, "score": None}]),
        (Operation.RERANK, [{"index": 0, "score": 1, "meta_info": 7}]),
        (Operation.SCORE, {"data": [{"index": 0}]}),
        (Operation.SCORE, {"scores": [[0.1]]}),
        (Operation.CLASSIFY, [{"index": 0, "label": "A", "probs": [1.0]}]),
        (Operation.CLASSIFY, {"data": [{"index": 0, "label": "A", "probs": "many"}]}),
        (Operation.CLASSIFY, {"data": []}),
    ],
)
def test_invalid_response_is_an_engine_failure(operation: Operation, body: Any) -> None:
    failure = read_answer(inference_request(BODIES[operation], operation), "m", 200, orjson.dumps(body))

    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.ENGINE

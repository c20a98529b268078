import base64
import math
import struct
from typing import Any

import pytest

from berth.sim.pooling import as_base64, unit_vector
from tests.sim.harness import running, send_request

RANK = {"query": "the night train", "documents": ["a fox", "the night train left", "mountains"]}


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_vllms_ranking_has_the_documents(path: str) -> None:
    with running(task="rerank") as server:
        answer = send_request(server.port, path, {**RANK, "model": "sim", "top_n": 2}).json
    assert answer["results"][0]["index"] == 1
    assert [len(answer["results"]), answer["results"][0]["document"]["text"]] == [2, "the night train left"]


def test_sglangs_ranking_is_an_array() -> None:
    with running("sglang", task="rerank") as server:
        shown = send_request(server.port, "/v1/rerank", RANK).json
        hidden = send_request(server.port, "/v1/rerank", {**RANK, "return_documents": False, "top_n": 1}).json
    assert shown[0]["index"] == 1
    assert shown[0]["document"] == "the night train left"
    assert (len(hidden), "document" in hidden[0]) == (1, False)


def test_compares_texts_one_to_many_or_pairwise() -> None:
    with running(task="rerank") as server:
        bodies: list[Any] = [
            {"text_1": "a b", "text_2": ["a b", "x y"]},
            {"queries": ["a b", "x y"], "documents": ["a b", "x y"]},
            {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]},
        ]
        one, pairs, odd = (send_request(server.port, "/score", body) for body in bodies)
    assert [item["score"] for item in one.json["data"]] == [1.0, pytest.approx(one.json["data"][1]["score"])]
    assert [item["score"] for item in pairs.json["data"]] == [1.0, 1.0]
    assert odd.status == 400


@pytest.mark.parametrize(
    ("dialect", "task", "path", "body", "status"),
    [
        ("vllm", "generate", "/classify", {"input": "x"}, 404),
        ("vllm", "classify", "/rerank", RANK, 404),
        ("vllm", "rerank", "/v1/embeddings", {"input": "x"}, 404),
        ("vllm", "rerank", "/rerank", {**RANK, "model": "nope"}, 404),
        ("vllm", "rerank", "/rerank", {"query": "x"}, 400),
        ("vllm", "classify", "/classify", {"input": 7}, 400),
        ("sglang", "rerank", "/v1/rerank", {**RANK, "query": " "}, 400),
        ("sglang", "rerank", "/v1/rerank", {**RANK, "documents": []}, 400),
        ("sglang", "classify", "/v1/classify", {"input": [" "]}, 400),
        ("sglang", "generate", "/v1/classify", {"input": "x"}, 400),
    ],
)
def test_rejects_unsupported_pooling_requests(dialect: str, task: str, path: str, body: Any, status: int) -> None:
    with running(dialect, task=task) as server:
        assert send_request(server.port, path, body).status == status


@pytest.mark.parametrize(("task", "classes"), [("classify", 2), ("rerank", 1)])
@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_classifies_each_text(dialect: str, task: str, classes: int) -> None:
    path = "/classify" if dialect == "vllm" else "/v1/classify"
    with running(dialect, task=task) as server:
        data = send_request(server.port, path, {"input": ["a", "b"]}).json["data"]
    assert [item["num_classes"] for item in data] == [classes, classes]
    assert all(sum(item["probs"]) == pytest.approx(1.0) for item in data)


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_faults_apply_to_pooling(dialect: str) -> None:
    with running(dialect, "status=500@1", task="rerank") as server:
        statuses = [send_request(server.port, "/v1/rerank", RANK).status for _ in range(2)]
    assert statuses == [500, 200]


def test_same_tokens_give_the_same_unit_vector() -> None:
    vector = unit_vector((1, 2, 3), 256)
    assert vector == unit_vector((1, 2, 3), 256)
    assert vector != unit_vector((3, 2, 1), 256)
    assert math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-5)


def test_base64_form_has_the_same_values() -> None:
    vector = unit_vector((), 8)
    assert list(struct.unpack("<8f", base64.b64decode(as_base64(vector)))) == vector

"""Cohere's official client, and the plain requests of Jina's, vLLM's and TEI's, as judges of reranking, scores and
classes; over simulated engines of both dialects that have them.
"""

from collections.abc import Iterator
from typing import Any

import cohere
import httpx
import pytest
from cohere.core.api_error import ApiError

from berth.plan import DialectName, Task
from tests.fakes.router import RouterProcess
from tests.fakes.router_fixture import RouterFixture
from tests.fakes.sims import POOLING, box_of, model_name, pair_of
from tests.fakes.upstream import json_answer

QUERY = "the night train"
DOCUMENTS = ["a fox under the table", "the night train left", "mountains"]
BEST = [1, 0, 2]
EMBED = model_name(Task.EMBED, DialectName.VLLM)


@pytest.fixture(scope="module")
def box() -> Iterator[RouterProcess]:
    with box_of(Task.RERANK, Task.CLASSIFY, Task.EMBED, Task.GENERATE) as box:
        yield box


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """What Cohere's clients ask with: they cannot be closed."""
    with httpx.Client(trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture(scope="module", params=POOLING)
def reranker(request: pytest.FixtureRequest) -> str:
    return model_name(Task.RERANK, request.param)


def post(box: RouterProcess, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{box.url}{path}", json=body, headers=headers, trust_env=False, timeout=20)


def test_cohere_v2_rerank(box: RouterProcess, http: httpx.Client, reranker: str) -> None:
    client = cohere.ClientV2("none", base_url=box.url, httpx_client=http)

    answer = client.rerank(model=reranker, query=QUERY, documents=DOCUMENTS)
    two = client.rerank(model=reranker, query=QUERY, documents=DOCUMENTS, top_n=2)

    assert [result.index for result in answer.results] == BEST
    assert [result.index for result in two.results] == BEST[:2]
    assert answer.results[0].relevance_score > answer.results[1].relevance_score
    assert answer.meta is not None
    assert answer.id


@pytest.mark.parametrize("documents", [DOCUMENTS, [{"text": text} for text in DOCUMENTS]], ids=["texts", "objects"])
def test_cohere_v1_rerank_with_documents(box: RouterProcess, http: httpx.Client, reranker: str, documents: Any) -> None:
    client = cohere.Client("none", base_url=box.url, httpx_client=http)

    answer = client.rerank(model=reranker, query=QUERY, documents=documents, return_documents=True, top_n=1)

    assert [(result.index, result.document and result.document.text) for result in answer.results] == [
        (1, DOCUMENTS[1])
    ]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_jina_and_vllm_response_format(box: RouterProcess, reranker: str, path: str) -> None:
    body = {"model": reranker, "query": QUERY, "documents": DOCUMENTS, "top_n": 2}
    answer = post(box, path, body).json()

    assert [result["index"] for result in answer["results"]] == BEST[:2]
    assert [result.get("document") for result in answer["results"]] == (
        [None, None] if path == "/v2/rerank" else [{"text": DOCUMENTS[index]} for index in BEST[:2]]
    )
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 0
    assert answer["model"] == reranker


def test_tei_response_is_an_array(box: RouterProcess, reranker: str) -> None:
    body = {"query": QUERY, "texts": DOCUMENTS, "return_text": True}
    answer = post(box, "/rerank", body, **{"x-berth-model": reranker}).json()

    assert [(result["index"], result["text"]) for result in answer] == [(index, DOCUMENTS[index]) for index in BEST]
    assert set(answer[0]) == {"index", "score", "text"}


def test_embedding_model_ranks_by_cosine(box: RouterProcess) -> None:
    same = post(box, "/v1/rerank", {"model": EMBED, "query": "fox", "documents": ["fox", "train"]}).json()

    assert same["results"][0]["index"] == 0
    assert same["results"][0]["relevance_score"] == pytest.approx(1.0)


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("names", [("text_1", "text_2"), ("queries", "documents")])
def test_texts_are_scored_in_their_order(box: RouterProcess, reranker: str, path: str, names: tuple[str, str]) -> None:
    answer = post(box, path, {"model": reranker, names[0]: QUERY, names[1]: DOCUMENTS}).json()

    assert [item["index"] for item in answer["data"]] == [0, 1, 2]
    assert max(answer["data"], key=lambda item: float(item["score"]))["index"] == 1
    assert (answer["object"], answer["model"]) == ("list", reranker)


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
@pytest.mark.parametrize("dialect", POOLING)
def test_texts_are_classified(box: RouterProcess, path: str, dialect: DialectName) -> None:
    model = model_name(Task.CLASSIFY, dialect)
    data = post(box, path, {"model": model, "input": DOCUMENTS}).json()["data"]

    assert [item["index"] for item in data] == [0, 1, 2]
    assert all(item["num_classes"] == len(item["probs"]) == 2 for item in data)
    assert all(item["label"] == f"LABEL_{item['probs'].index(max(item['probs']))}" for item in data)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/rerank", {"model": "vllm", "query": "x", "documents": ["y"]}, "model"),
        ("/v1/rerank", {"model": "classify-vllm", "query": "x", "documents": ["y"]}, "model"),
        ("/v1/rerank", {"model": "embed-sglang", "query": "x", "documents": ["y"]}, "model"),
        (
            "/v1/rerank",
            {"model": "rerank-sglang", "query": "x", "documents": ["y"], "max_tokens_per_doc": 9},
            "max_tokens",
        ),
        ("/v1/score", {"model": "rerank-sglang", "text_1": ["a", "b"], "text_2": ["c", "d"]}, "text_1"),
        ("/v1/classify", {"model": "embed-vllm", "input": "x"}, "model"),
        ("/v1/chat/completions", {"model": "rerank-vllm", "messages": [{"role": "user", "content": "x"}]}, "model"),
        ("/v1/rerank", {"query": "x", "documents": ["y"]}, "model"),
        ("/v1/rerank", {"model": "nix", "query": "x", "documents": ["y"]}, "model"),
    ],
)
def test_rejects_unsupported_operation_with_the_field(box: RouterProcess, path: str, body: Any, param: str) -> None:
    answer = post(box, path, body)
    document = answer.json()
    error = document["error"] if isinstance(document["error"], dict) else document

    assert 400 <= answer.status_code < 500
    assert error["param"].startswith(param)
    assert error["message"]


def test_errors_have_the_clients_class_and_format(box: RouterProcess, http: httpx.Client, reranker: str) -> None:
    with pytest.raises(cohere.BadRequestError) as caught:
        cohere.ClientV2("none", base_url=box.url, httpx_client=http).rerank(model=reranker, query=QUERY, documents=[])
    with pytest.raises(cohere.NotFoundError):
        cohere.ClientV2("none", base_url=box.url, httpx_client=http).rerank(model="nix", query=QUERY, documents=["x"])
    body = post(box, "/rerank", {"model": reranker, "query": 7, "texts": ["x"]}).json()

    assert isinstance(caught.value, ApiError)
    assert "documents" in caught.value.body["message"]
    assert body["message"] == body["detail"] == body["error"]
    assert body["error_type"] == "validation"


def test_missing_path_falls_back(router_fixture: RouterFixture) -> None:
    """A server that was started for other work answers 404."""
    router_fixture.embedder.answers(json_answer({"detail": "Not Found"}, status=404))
    answer = httpx.post(
        f"{router_fixture.url}/v1/rerank",
        json={"model": "org/embed", "query": "x", "documents": ["y"]},
        trust_env=False,
        timeout=20,
    )

    assert answer.status_code == 400
    assert "does not support rerank" in answer.json()["message"]
    assert router_fixture.embedder.requests[0].path == "/rerank"


@pytest.mark.parametrize("fault", ["reset-before", "status=500", "null", "close-after=0"])
@pytest.mark.parametrize(("first", "second"), [POOLING, POOLING[::-1]])
def test_failure_falls_back(first: DialectName, second: DialectName, fault: str) -> None:
    with pair_of(Task.RERANK, first, second, fault) as box:
        answer = post(box, "/v1/rerank", {"model": "m", "query": QUERY, "documents": DOCUMENTS})

    assert [result["index"] for result in answer.json()["results"]] == BEST
    assert answer.headers["x-berth-attempts"] == "2"
    assert answer.headers["x-berth-engine"] == second


def test_unsupporting_engine_is_skipped() -> None:
    """SGLang compares no pairs, and gives no raw scores."""
    with pair_of(Task.RERANK, DialectName.SGLANG, DialectName.VLLM) as box:
        pairs = post(box, "/v1/score", {"model": "m", "text_1": ["a", "b"], "text_2": ["a", "c"]})
        raw = post(box, "/rerank", {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True})

    assert pairs.json()["data"][0]["score"] == 1.0
    assert {answer.headers["x-berth-engine"] for answer in (pairs, raw)} == {"vllm"}

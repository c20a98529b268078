from typing import Any

import orjson
import pytest
from cohere.types.rerank_response import RerankResponse
from cohere.v2.types.v2rerank_response import V2RerankResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from berth import errors
from berth.apis.rerank import RULES, TEI_RULES, Rerank
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError

FIRST, SECOND = Rerank(return_documents=True), Rerank(return_documents=False)
ASK: Json = {"model": "m", "query": "q", "documents": ["a", {"text": "b", "id": 7}]}
CANONICAL = orjson.dumps(
    {
        "results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}],
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "x"]), inner, max_size=2),
    max_leaves=5,
)


def parse(api: Rerank = FIRST, **fields: Any) -> InferenceRequest:
    return api.parse(orjson.dumps({**ASK, **fields}))


def answer(request: InferenceRequest, api: Rerank = FIRST) -> Any:
    return orjson.loads(api.response(request, CANONICAL))


def test_engines_get_the_texts_of_documents() -> None:
    request = parse(top_n=1, max_tokens_per_doc=9, instruct="sort", return_documents=False)

    assert request.body == {
        "model": "m",
        "query": "q",
        "documents": ["a", "b"],
        "top_n": 1,
        "max_tokens_per_doc": 9,
        "instruction": "sort",
    }
    assert request.operation is Operation.RERANK


@pytest.mark.parametrize(
    ("api", "asked", "shows"),
    [(FIRST, None, True), (FIRST, False, False), (SECOND, None, False), (SECOND, True, True)],
)
def test_returns_documents_unchanged_on_request(api: Rerank, asked: bool | None, shows: bool) -> None:
    results = answer(parse(api, return_documents=asked), api)["results"]

    shown = [{"text": "b", "id": 7}, {"text": "a"}] if shows else [None, None]
    assert [result.get("document") for result in results] == shown


def test_response_matches_coheres_types() -> None:
    for model, api in ((RerankResponse, FIRST), (V2RerankResponse, SECOND)):
        assert model.model_validate(answer(parse(api), api), strict=True).results[0].index == 1


def test_returns_at_most_top_n_results() -> None:
    assert len(answer(parse(top_n=1))["results"]) == 1


def test_lists_ignored_fields() -> None:
    assert parse(priority=3, max_chunks_per_doc=2, user="me").ignored == ("max_chunks_per_doc", "priority", "user")


def test_tei_request_gets_an_array() -> None:
    ask = {"query": "q", "texts": ["a", "b"], "raw_scores": True, "truncate": True, "truncation_direction": "Left"}
    request = FIRST.parse(orjson.dumps(ask), {b"x-berth-model": b"m"})
    shown = FIRST.parse(orjson.dumps({**ask, "return_text": True}))

    assert request.model == "m"
    assert request.body == {
        "model": "m",
        "query": "q",
        "documents": ["a", "b"],
        "use_activation": False,
        "truncate_prompt_tokens": -1,
        "truncation_side": "left",
    }
    assert answer(request) == [{"index": 1, "score": 0.9}, {"index": 0, "score": 0.1}]
    assert [item["text"] for item in answer(shown)] == ["b", "a"]


def test_tei_truncates_only_on_request() -> None:
    ask = {"query": "q", "texts": ["a"], "truncation_direction": "Left", "raw_scores": False}

    assert FIRST.parse(orjson.dumps(ask)).body == {"model": "", "query": "q", "documents": ["a"]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": None}, "query"),
        ({"query": 7}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["a", 7]}, "documents.1"),
        ({"documents": [{"image": "x"}]}, "documents.0"),
        ({"top_n": 0}, "top_n"),
        ({"rank_fields": ["title"]}, "rank_fields"),
        ({"texts": []}, "texts"),
        ({"texts": ["a", 1]}, "texts"),
        ({"model": 7}, "model"),
    ],
)
def test_rejects_invalid_request_and_names_the_field(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse(**fields)

    assert refused.value.param == param


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.InvalidRequestError("x"), "validation"),
        (errors.OverloadedError("x"), "overloaded"),
        (errors.NotReadyError("x"), "unhealthy"),
        (errors.UpstreamError("x"), "backend"),
    ],
)
def test_error_has_the_fields_of_every_client(error: errors.ApiError, kind: str) -> None:
    body = orjson.loads(FIRST.error(error))

    assert (body["message"], body["detail"], body["error"], body["error_type"]) == ("x", "x", "x", kind)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*RULES, *TEI_RULES]), JSON, max_size=5), st.booleans())
def test_any_document_is_rejected_or_becomes_a_list_of_texts(fields: Json, whole: bool) -> None:
    try:
        request = FIRST.parse(orjson.dumps({**(ASK if whole else {}), **fields}))
    except InvalidRequestError:
        return
    assert isinstance(request.body["query"], str)
    assert set(map(type, request.body["documents"])) == {str}
    assert isinstance(request.model, str)

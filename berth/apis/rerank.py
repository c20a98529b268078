"""Reranking for the clients of Cohere, Jina, vLLM and TEI, behind /rerank, /v1/rerank and /v2/rerank.

They differ little: TEI calls the documents `texts` and wants an array back, Cohere's second version shows no documents.
Clients pass over fields that they do not know, so that one answer, and one error, fits all but TEI's.
"""

import secrets
from typing import Any, Final

import orjson

from berth.apis.base import NO_HEADERS, Headers
from berth.apis.openai.fields import BOOLEAN, TEXT, Rule, check_fields, integer, one_of, read_object, shown
from berth.apis.openai.passthrough import OpenaiAnswers
from berth.apis.score import CUTS, request_of
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import ApiError, InvalidRequestError

RULES: Final[dict[str, Rule]] = {
    **CUTS,
    "documents": Rule(
        holds=lambda value: isinstance(value, list) and bool(value), expected="a list of documents that is not empty"
    ),
    "instruct": TEXT,
    "query": TEXT,
    "return_documents": BOOLEAN,
    "top_n": integer(1),
}
TEI_RULES: Final[dict[str, Rule]] = {
    "model": TEXT,
    "query": TEXT,
    "raw_scores": BOOLEAN,
    "return_text": BOOLEAN,
    "texts": Rule(
        holds=lambda value: isinstance(value, list) and set(map(type, value)) == {str},
        expected="a list of strings that is not empty",
    ),
    "truncate": BOOLEAN,
    "truncation_direction": one_of("left", "right", "Left", "Right"),
}
# Cohere's and Jina's own, that say nothing about which document is the better one.
_NO_EFFECT: Final = ("max_chunks_per_doc", "priority", "user")
_TEI_TYPES: Final = {
    400: "validation",
    404: "validation",
    413: "validation",
    422: "validation",
    429: "overloaded",
    503: "unhealthy",
}


class Rerank(OpenaiAnswers):
    """`shows_documents`: whether an answer repeats them where the request says nothing about it."""

    operation = Operation.RERANK

    def __init__(self, *, shows_documents: bool) -> None:
        self._shows_documents = shows_documents

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        return _tei_request(document, headers) if "texts" in document else _request(document, headers)

    def answer(self, request: InferenceRequest, body: bytes) -> bytes:
        told, original = orjson.loads(body), request.original
        if "texts" in original:
            return _tei_answer(original, told)
        shows = original.get("return_documents")
        shows = self._shows_documents if shows is None else shows
        results = [_result(item, original, shows=shows) for item in told["results"][: original.get("top_n")]]
        meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
        head = {"id": f"rerank-{secrets.token_hex(8)}", "object": "list", "model": request.model}
        return orjson.dumps({**head, "results": results, "usage": told["usage"], "meta": meta})

    def error(self, error: ApiError) -> bytes:
        """Cohere's clients read `message`, Jina's `detail`, TEI's `error` and `error_type`."""
        kind = _TEI_TYPES.get(error.status, "backend")
        fields = {"message": error.message, "detail": error.message, "error": error.message, "error_type": kind}
        return orjson.dumps({**fields, "code": error.code, "param": error.param})


def _request(document: Json, headers: Headers) -> InferenceRequest:
    check_fields(document, RULES, required=("query", "documents"))
    if document.get("rank_fields") not in (None, [], ["text"]):
        raise InvalidRequestError(
            f"'rank_fields' must be ['text'], not {shown(document['rank_fields'])}: write the text to compare there.",
            param="rank_fields",
        )
    texts = [_text(item, f"documents.{place}") for place, item in enumerate(document["documents"])]
    if instruction := document.get("instruct"):
        document = {"instruction": instruction, **document}
    request = request_of(Operation.RERANK, document, headers, {"query": document["query"], "documents": texts})
    fields = {**request.body, **({"top_n": document["top_n"]} if document.get("top_n") else {})}
    ignored = tuple(name for name in _NO_EFFECT if document.get(name) is not None)
    return InferenceRequest(
        operation=Operation.RERANK, model=request.model, body=fields, original=document, ignored=ignored
    )


def _tei_request(document: Json, headers: Headers) -> InferenceRequest:
    check_fields(document, TEI_RULES, required=("query", "texts"))
    cuts: Json = {"use_activation": False} if document.get("raw_scores") else {}
    if document.get("truncate"):
        cuts |= {"truncate_prompt_tokens": -1}
    given = {"model": document.get("model"), **cuts}
    fields = {"query": document["query"], "documents": document["texts"]}
    request = request_of(Operation.RERANK, given, headers, fields)
    body = request.body
    if document.get("truncate") and str(document.get("truncation_direction")).lower() == "left":
        body = {**body, "truncation_side": "left"}
    return InferenceRequest(operation=Operation.RERANK, model=request.model, body=body, original=document)


def _text(document: Any, param: str) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise InvalidRequestError(
            f"{param!r} must be a text, or an object with 'text', not {shown(document)}.", param=param
        )
    return text


def _result(item: Json, original: Json, *, shows: bool) -> Json:
    result = {"index": item["index"], "relevance_score": item["relevance_score"]}
    if shows:
        document = original["documents"][item["index"]]
        result["document"] = document if isinstance(document, dict) else {"text": document}
    return result


def _tei_answer(original: Json, told: Json) -> bytes:
    results = [{"index": item["index"], "score": item["relevance_score"]} for item in told["results"]]
    if original.get("return_text"):
        results = [{**result, "text": original["texts"][result["index"]]} for result in results]
    return orjson.dumps(results)

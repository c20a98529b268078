"""Reranking for clients of Cohere, Jina, vLLM and TEI: /rerank, /v1/rerank and /v2/rerank.

The APIs differ little: TEI calls the documents `texts` and expects an array back, and Cohere's second version does not
return documents. Clients ignore unknown fields, so one response and one error serve all but TEI.
"""

import secrets
from typing import Final

from msgspec.structs import replace

from berth import json_text
from berth.apis.base import NO_HEADERS, Headers
from berth.apis.openai.fields import (
    BOOLEAN,
    TEXT,
    Rule,
    check_fields,
    formatted,
    integer,
    mismatch,
    one_of,
    read_object,
)
from berth.apis.openai.passthrough import OpenaiEndpoint
from berth.apis.score import TRUNCATION, request_of
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import ApiError, InvalidRequestError

RULES: Final[dict[str, Rule]] = {
    **TRUNCATION,
    "documents": Rule(
        holds=lambda value: isinstance(value, list) and bool(value), expected="a non-empty list of documents"
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
        expected="a non-empty list of strings",
    ),
    "truncate": BOOLEAN,
    "truncation_direction": one_of("left", "right", "Left", "Right"),
}
# Fields of Cohere and Jina that do not change the ranking.
_IGNORED: Final = ("max_chunks_per_doc", "priority", "user")
_TEI_ERROR_TYPES: Final = {
    400: "validation",
    404: "validation",
    413: "validation",
    421: "validation",
    422: "validation",
    429: "overloaded",
    503: "unhealthy",
}


class Rerank(OpenaiEndpoint):
    """`return_documents`: the default of the field of that name."""

    operation = Operation.RERANK

    def __init__(self, *, return_documents: bool) -> None:
        self._return_documents = return_documents

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        if "texts" in document:
            return _tei_request(document, headers)
        check_fields(document, RULES, required=("query", "documents"))
        if document.get("rank_fields") not in (None, [], ["text"]):
            raise InvalidRequestError(
                f"'rank_fields' must be ['text'], not {formatted(document['rank_fields'])}. "
                "Put the text to compare into 'text'.",
                param="rank_fields",
            )
        texts = []
        for place, item in enumerate(document["documents"]):
            text = item.get("text") if isinstance(item, dict) else item
            if not isinstance(text, str):
                raise mismatch(f"documents.{place}", "a string, or an object with a string 'text'", item)
            texts.append(text)
        if instruction := document.get("instruct"):
            document = {"instruction": instruction, **document}
        fields: Json = {"query": document["query"], "documents": texts}
        request = request_of(Operation.RERANK, document, headers, fields)
        top_n = {"top_n": document["top_n"]} if document.get("top_n") else {}
        ignored = tuple(name for name in _IGNORED if document.get(name) is not None)
        return replace(request, body={**request.body, **top_n}, original=document, ignored=ignored)

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        canonical, original = json_text.loads(body), request.original
        if "texts" in original:
            scores = [{"index": item["index"], "score": item["relevance_score"]} for item in canonical["results"]]
            if original.get("return_text"):
                scores = [{**score, "text": original["texts"][score["index"]]} for score in scores]
            return json_text.dumps(scores)
        return_documents = original.get("return_documents")
        if return_documents is None:
            return_documents = self._return_documents
        results = []
        for item in canonical["results"][: original.get("top_n")]:
            result = {"index": item["index"], "relevance_score": item["relevance_score"]}
            if return_documents:
                document = original["documents"][item["index"]]
                result["document"] = document if isinstance(document, dict) else {"text": document}
            results.append(result)
        meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
        head = {"id": f"rerank-{secrets.token_hex(8)}", "object": "list", "model": request.model}
        return json_text.dumps({**head, "results": results, "usage": canonical["usage"], "meta": meta})

    def error(self, error: ApiError) -> bytes:
        """Cohere's clients read `message`, Jina's `detail`, TEI's `error` and `error_type`."""
        kind = _TEI_ERROR_TYPES.get(error.status, "backend")
        fields = {"message": error.message, "detail": error.message, "error": error.message, "error_type": kind}
        return json_text.dumps({**fields, "code": error.code, "param": error.param, **error.extension})


def _tei_request(document: Json, headers: Headers) -> InferenceRequest:
    check_fields(document, TEI_RULES, required=("query", "texts"))
    settings: Json = {"model": document.get("model")}
    if document.get("raw_scores"):
        settings["use_activation"] = False
    if document.get("truncate"):
        settings["truncate_prompt_tokens"] = -1
    fields: Json = {"query": document["query"], "documents": document["texts"]}
    request = request_of(Operation.RERANK, settings, headers, fields)
    left = document.get("truncate") and str(document.get("truncation_direction")).lower() == "left"
    return replace(request, body={**request.body, **({"truncation_side": "left"} if left else {})}, original=document)

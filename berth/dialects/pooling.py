"""Rerank, score and classify: the request to each engine, and the reading of its response.

Checked against vLLM 0.33.0 (its responses) and SGLang 0.5.23 (its sources). A score is the engine's own number: a
cross-encoder returns the output of its head, an embedding model the cosine.
"""

from operator import itemgetter
from typing import Any, Final

from berth import json_text
from berth.canonical import EngineResponse, InferenceRequest, Json, Operation, UpstreamRequest
from berth.dialects.base import UnsupportedError
from berth.dialects.choices import read_usage, token_count

POOLING: Final = frozenset({Operation.RERANK, Operation.SCORE, Operation.CLASSIFY})
_VLLM_PATHS: Final = {Operation.RERANK: "/rerank", Operation.SCORE: "/score", Operation.CLASSIFY: "/classify"}
_OF_VLLM: Final = ("truncate_prompt_tokens", "max_tokens_per_doc", "max_tokens_per_query", "instruction")


def vllm_request(request: InferenceRequest, served_name: str) -> UpstreamRequest:
    """The canonical body as it is: vLLM reads all of it."""
    body = {name: value for name, value in request.body.items() if value is not None}
    return UpstreamRequest(path=_VLLM_PATHS[request.operation], body=json_text.dumps({**body, "model": served_name}))


def sglang_request(request: InferenceRequest, served_name: str) -> UpstreamRequest:
    """SGLang's /v1/score is about the probabilities of tokens, so texts are scored as a query with its documents.
    UnsupportedError for pairs of texts, and for fields that SGLang does not know.
    """
    if request.adapter:
        raise UnsupportedError(f"SGLang cannot {request.operation} with a LoRA adapter", param="model")
    if request.operation is Operation.CLASSIFY:
        _refuse_fields_of_vllm(request, "SGLang")
        classify = {"model": served_name, "input": request.body["input"]}
        return UpstreamRequest(path="/v1/classify", body=json_text.dumps(classify))
    query, documents = query_and_documents(request, "SGLang")
    rerank = {"query": query, "documents": documents, "return_documents": False}
    return UpstreamRequest(path="/v1/rerank", body=json_text.dumps(rerank))


def query_and_documents(request: InferenceRequest, engine: str) -> tuple[Any, Any]:
    """Of a ranking, or of a score, for an engine that ranks only. UnsupportedError as above."""
    _refuse_fields_of_vllm(request, engine)
    body = request.body
    if request.operation is Operation.RERANK:
        return body["query"], body["documents"]
    query, documents = body["text_1"], body["text_2"]
    if isinstance(query, list):
        if len(query) != 1:
            raise UnsupportedError(f"{engine} scores one text against others, not pairs of texts", param="text_1")
        query = query[0]
    return query, [documents] if isinstance(documents, str) else documents


def _refuse_fields_of_vllm(request: InferenceRequest, engine: str) -> None:
    operation, body = request.operation, request.body
    if body.get("use_activation") is False:
        raise UnsupportedError(f"{engine} does not support 'use_activation': false", param="use_activation")
    for name in _OF_VLLM:
        if body.get(name) not in (None, 0):
            raise UnsupportedError(f"{engine} does not support {name!r} in {operation} requests", param=name)


def read_ranks(document: Any) -> EngineResponse:
    """The best first. KeyError, TypeError or ValueError for what is not a ranking."""
    items = document["results"] if isinstance(document, dict) else document
    results = [{"index": _index(item), "relevance_score": _score(item)} for item in items]
    results.sort(key=lambda result: (-result["relevance_score"], result["index"]))
    return _response({"results": results}, document, items)


def read_scores(document: Any) -> EngineResponse:
    """In the order of the texts, from scores or from SGLang's ranking. The same errors."""
    items = document["data"] if isinstance(document, dict) else document
    data = [{"index": _index(item), "score": _score(item)} for item in items]
    return _response({"data": sorted(data, key=itemgetter("index"))}, document, items)


def read_classes(document: Any) -> EngineResponse:
    """In the order of the texts, with the probability of each class. The same errors."""
    items = document["data"]
    for item in items:
        values = item["probs"]
        if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
            raise TypeError(f"expected a list of probabilities, got {values!r}")
    data = [{"index": _index(item), "label": item["label"], "probs": item["probs"]} for item in items]
    return _response({"data": sorted(data, key=itemgetter("index"))}, document, items)


def _response(body: Json, document: Any, items: list[Json]) -> EngineResponse:
    if not items:
        raise ValueError("it has no results")
    reported = document.get("usage") or {} if isinstance(document, dict) else {}
    if not reported:  # SGLang's ranking has the tokens of each document instead
        counts = [(item.get("meta_info") or {}).get("prompt_tokens") for item in items]
        reported = {"prompt_tokens": sum(map(token_count, counts))}
    usage = read_usage(reported)
    canonical = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
    return EngineResponse(body=json_text.dumps({**body, "usage": canonical}), usage=usage)


def _index(item: Json) -> int:
    if not isinstance(item["index"], int):
        raise TypeError(f"expected an integer as index, got {item['index']!r}")
    return item["index"]


def _score(item: Json) -> float:
    value = item["relevance_score"] if "relevance_score" in item else item["score"]
    if not isinstance(value, int | float):
        raise TypeError(f"expected a number as score, got {value!r}")
    return value

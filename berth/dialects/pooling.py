"""Rerank, score and classify: how each engine is asked, and how its answer is read.

Checked against vLLM 0.32 (its answers) and SGLang 0.5.23 (its sources). A score is the engine's own figure: a
cross-encoder gives what its head does, an embedding model the cosine.
"""

from typing import Any, Final

import orjson

from berth.canonical import EngineResponse, InferenceRequest, Json, Operation, UpstreamRequest
from berth.dialects.base import UnsupportedError
from berth.dialects.stream_decoder import usage_in

POOLING: Final = frozenset({Operation.RERANK, Operation.SCORE, Operation.CLASSIFY})
_VLLM_PATHS: Final = {Operation.RERANK: "/rerank", Operation.SCORE: "/score", Operation.CLASSIFY: "/classify"}
_CUTS: Final = ("truncate_prompt_tokens", "max_tokens_per_doc", "max_tokens_per_query", "instruction")


def vllm_request(request: InferenceRequest, served_name: str) -> UpstreamRequest:
    """It takes the canonical body as it is."""
    body = {name: value for name, value in request.body.items() if value is not None}
    return _asked(_VLLM_PATHS[request.operation], {**body, "model": served_name})


def sglang_request(request: InferenceRequest, served_name: str) -> UpstreamRequest:
    """Its own /v1/score is about the probabilities of tokens, so one text is compared with others as a query with its
    documents. UnsupportedError for pairs of texts, and for fields that it does not know.
    """
    body = request.body
    if body.get("use_activation") is False:
        raise UnsupportedError("SGLang gives scores as its model does", param="use_activation")
    for name in _CUTS:
        if body.get(name) not in (None, 0):
            raise UnsupportedError(f"SGLang does not support {name!r} here", param=name)
    match request.operation:
        case Operation.CLASSIFY:
            return _asked("/v1/classify", {"model": served_name, "input": body["input"]})
        case Operation.RERANK:
            wanted = {"query": body["query"], "documents": body["documents"], "return_documents": False}
        case _:
            wanted = {"query": _one(body["text_1"]), "documents": _texts(body["text_2"]), "return_documents": False}
    return _asked("/v1/rerank", wanted)


def read_ranks(document: Any) -> EngineResponse:
    """The best first. KeyError, TypeError or ValueError for what is no ranking."""
    items = document["results"] if isinstance(document, dict) else document
    results = [{"index": _index(item), "relevance_score": _score(item)} for item in items]
    results.sort(key=_by_relevance)
    return _answer({"results": results}, document, items)


def read_scores(document: Any) -> EngineResponse:
    """In the order of the texts; also from SGLang's ranking. The same errors."""
    items = document["data"] if isinstance(document, dict) else document
    data = sorted(({"index": _index(item), "score": _score(item)} for item in items), key=_by_index)
    return _answer({"data": data}, document, items)


def read_classes(document: Any) -> EngineResponse:
    """In the order of the texts, with the probability of each class. The same errors."""
    items = document["data"]
    data = [{"index": _index(item), "label": item["label"], "probs": _probabilities(item)} for item in items]
    return _answer({"data": sorted(data, key=_by_index)}, document, items)


def _answer(body: Json, document: Any, items: list[Json]) -> EngineResponse:
    if not items:
        raise ValueError("there is nothing in it")
    told = document.get("usage") or {} if isinstance(document, dict) else {}
    if not told:  # SGLang's ranking tells it for each document
        counts = [(item.get("meta_info") or {}).get("prompt_tokens") for item in items]
        total = sum(count for count in counts if isinstance(count, int))
        told = {"prompt_tokens": total, "total_tokens": total}
    usage = usage_in(told)
    shown = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
    return EngineResponse(body=orjson.dumps({**body, "usage": shown}), usage=usage)


def _by_relevance(result: Json) -> tuple[float, int]:
    return -result["relevance_score"], result["index"]


def _by_index(result: Json) -> int:
    index: int = result["index"]
    return index


def _index(item: Json) -> int:
    if not isinstance(item["index"], int):
        raise TypeError(f"an index is {item['index']!r}")
    return item["index"]


def _score(item: Json) -> float:
    value = item["relevance_score"] if "relevance_score" in item else item["score"]
    if not isinstance(value, int | float):
        raise TypeError(f"a score is {value!r}")
    return value


def _probabilities(item: Json) -> list[float]:
    values = item["probs"]
    if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
        raise TypeError(f"probabilities are {values!r}")
    return values


def _one(texts: Any) -> Any:
    if isinstance(texts, str):
        return texts
    if len(texts) != 1:
        raise UnsupportedError("SGLang compares one text with others, not pairs of texts", param="text_1")
    return texts[0]


def _texts(texts: Any) -> Any:
    return [texts] if isinstance(texts, str) else texts


def _asked(path: str, body: Json) -> UpstreamRequest:
    return UpstreamRequest(path=path, body=orjson.dumps(body))

"""Rerank, score and classify: as recorded of vLLM 0.32.0, and as in the sources of SGLang 0.5.23.

An embedding model compares the cosine of its vectors, a reranker the words that two texts share.
Embeddings are deterministic: the same tokens give the same unit vector in every process.
"""

import base64
import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from berth.plan import DialectName, Task
from berth.sim import body_validation
from berth.sim.body_validation import InvalidError, Json, RejectionError
from berth.sim.common_responses import hex_id, now
from berth.sim.dialect import Route, Setup

POOLING_ROUTES = (Route.RERANK, Route.SCORE, Route.CLASSIFY)
_NOT_POOLING = (
    "This model does not appear to be an embedding model by default. Please add `--is-embedding` when launching the "
    "server or try another model."
)
_CLASSES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingResult:
    tokens: int  # of all texts
    body: bytes  # of the response


class Pooling:
    """InvalidError or RejectionError for what the engine would reject."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._options = setup.options

    def respond(self, route: Route, body: Json) -> PoolingResult:
        if self._options.dialect is DialectName.SGLANG:
            return self._respond_sglang(route, body)
        body_validation.check_types(body)
        if body.get("model") not in (None, *self._options.names, *self._options.adapters):
            raise RejectionError(f"The model `{body['model']}` does not exist.", status=404)
        if route is Route.CLASSIFY:
            return self._classify(_texts(body, "input"))
        if route is Route.RERANK:
            return self._rank_vllm(body)
        ones, others = (_texts(body, *names) for names in (("text_1", "queries"), ("text_2", "documents")))
        if len(ones) not in (1, len(others)):
            raise RejectionError("Input lengths must be either 1:1, 1:N or N:N")
        tokens, values = self._compare(ones, others)
        data = [{"index": index, "object": "score", "score": value} for index, value in enumerate(values)]
        head = {"id": f"score-{hex_id()}", "object": "list", "created": now(), "model": self._options.name}
        return PoolingResult(tokens=tokens, body=orjson.dumps({**head, "data": data, "usage": _usage(tokens)}))

    def _rank_vllm(self, body: Json) -> PoolingResult:
        documents = _texts(body, "documents")
        tokens, values = self._compare(_texts(body, "query"), documents)
        order = sorted(range(len(values)), key=lambda index: -values[index])
        results = [
            {
                "index": index,
                "document": {"text": documents[index], "multi_modal": None},
                "relevance_score": values[index],
            }
            for index in order[: body_validation.integer(body, "top_n", 0) or None]
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        response = {"id": f"score-{hex_id()}", "model": self._options.name, "usage": usage, "results": results}
        return PoolingResult(tokens=tokens, body=orjson.dumps(response))

    def _respond_sglang(self, route: Route, body: Json) -> PoolingResult:
        """A ranking is an array, and the query counts once per document."""
        if self._options.task is Task.GENERATE:
            raise RejectionError(_NOT_POOLING)
        if route is Route.CLASSIFY:
            texts = _texts(body, "input")
            if not all(text.strip() for text in texts):
                raise RejectionError("Input cannot be empty or whitespace only")
            return self._classify(texts)
        query, documents = _texts(body, "query")[0], _texts(body, "documents")
        if not query.strip():
            raise RejectionError("Query cannot be empty")
        if not documents or not all(text.strip() for text in documents):
            raise RejectionError("Documents cannot be empty")
        query_ids, ids = self._ids(query), [self._ids(text) for text in documents]
        results = [
            {
                "score": self._similarity(query_ids, one),
                **({"document": documents[index]} if body.get("return_documents", True) else {}),
                "index": index,
                "meta_info": {"id": hex_id(32), "prompt_tokens": len(query_ids) + len(one)},
            }
            for index, one in enumerate(ids)
        ]
        results.sort(key=lambda result: -float(str(result["score"])))
        tokens = sum(len(query_ids) + len(one) for one in ids)
        return PoolingResult(tokens=tokens, body=orjson.dumps(results[: body.get("top_n")]))

    def _classify(self, texts: Sequence[str]) -> PoolingResult:
        """A reranker has one class."""
        count = 1 if self._options.task is Task.RERANK else _CLASSES
        data: list[Json] = []
        tokens = 0
        for index, ids in enumerate(self._ids(text) for text in texts):
            weights = [math.exp(value) for value in unit_vector(ids, count)]
            probs = [weight / sum(weights) for weight in weights]
            label = f"LABEL_{probs.index(max(probs))}"
            data.append({"index": index, "label": label, "probs": probs, "num_classes": count})
            tokens += len(ids)
        head = {"id": f"classify-{hex_id()}", "object": "list", "created": now(), "model": self._options.name}
        return PoolingResult(tokens=tokens, body=orjson.dumps({**head, "data": data, "usage": _usage(tokens)}))

    def _compare(self, ones: Sequence[str], others: Sequence[str]) -> tuple[int, list[float]]:
        """The tokens of all texts, and the similarity of each pair."""
        first, second = [self._ids(text) for text in ones], [self._ids(text) for text in others]
        tokens = sum(len(one) for one in [*first, *second])
        pairs = zip(first * (1 if len(first) == len(second) else len(second)), second, strict=True)
        return tokens, [self._similarity(one, other) for one, other in pairs]

    def _similarity(self, one: Sequence[int], other: Sequence[int]) -> float:
        if self._options.task is Task.EMBED:
            vectors = (unit_vector(ids, self._options.dimensions) for ids in (one, other))
            return math.fsum(left * right for left, right in zip(*vectors, strict=True))
        return len({*one} & {*other}) / max(1, len({*one} | {*other}))

    def _ids(self, text: str) -> tuple[int, ...]:
        return self._setup.tokenizer.encode(text)


def _texts(body: Json, *names: str) -> list[str]:
    """One or several texts, under the first of these names in the body."""
    for name in names:
        value: Any = body.get(name)
        if isinstance(value, str):
            return [value]
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return value
        if value is not None:
            raise InvalidError("string_type", (name,), "Input should be a valid string", value)
    raise InvalidError("missing", (names[0],), "Field required", body)


def _usage(tokens: int) -> Json:
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def unit_vector(ids: Sequence[int], dimensions: int) -> list[float]:
    """Values as a 32-bit float holds them, so that the list and its base64 form are equal."""
    seed = b"".join(number.to_bytes(8, "little", signed=True) for number in ids)
    digest = hashlib.shake_256(seed).digest(dimensions * 2)
    raw = [number + 0.5 for number in struct.unpack(f"<{dimensions}h", digest)]  # never all zero
    length = math.hypot(*raw)
    return list(struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(value / length for value in raw))))


def as_base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

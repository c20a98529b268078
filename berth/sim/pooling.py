"""Rerank, score and classify: as vLLM 0.32 answered on the wire, and as SGLang 0.5.23's sources say.

An embedding model compares by the cosine of its vectors, a reranker by the words that two texts share.

Deterministic embeddings: the same tokens give the same unit vector in every process.
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
    body: bytes  # of the answer


class Pooling:
    """InvalidError or RefusalError for what the engine would refuse."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._options = setup.options

    def respond(self, route: Route, body: Json) -> PoolingResult:
        if self._options.dialect is DialectName.SGLANG:
            return self._sglang(route, body)
        body_validation.check_types(body)
        if body.get("model") not in (None, *self._options.names, *self._options.adapters):
            raise RejectionError(f"The model `{body['model']}` does not exist.", status=404)
        return self._vllm(route, body)

    def _vllm(self, route: Route, body: Json) -> PoolingResult:
        if route is Route.CLASSIFY:
            return self._classes(_texts(body, "input"))
        if route is Route.RERANK:
            return self._ranks(body)
        ones, others = (_texts(body, *names) for names in (("text_1", "queries"), ("text_2", "documents")))
        if len(ones) not in (1, len(others)):
            raise RejectionError("Input lengths must be either 1:1, 1:N or N:N")
        tokens, values = self._compared(ones, others)
        data = [{"index": index, "object": "score", "score": value} for index, value in enumerate(values)]
        head = {"id": f"score-{hex_id()}", "object": "list", "created": now(), "model": self._options.name}
        return PoolingResult(tokens=tokens, body=orjson.dumps({**head, "data": data, "usage": _usage(tokens)}))

    def _ranks(self, body: Json) -> PoolingResult:
        documents = _texts(body, "documents")
        tokens, values = self._compared(_texts(body, "query"), documents)
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
        answer = {"id": f"score-{hex_id()}", "model": self._options.name, "usage": usage, "results": results}
        return PoolingResult(tokens=tokens, body=orjson.dumps(answer))

    def _sglang(self, route: Route, body: Json) -> PoolingResult:
        """A ranking is an array, and the query counts once for each document."""
        if self._options.task is Task.GENERATE:
            raise RejectionError(_NOT_POOLING)
        if route is Route.CLASSIFY:
            texts = _texts(body, "input")
            if not all(text.strip() for text in texts):
                raise RejectionError("Input cannot be empty or whitespace only")
            return self._classes(texts)
        query, documents = _texts(body, "query")[0], _texts(body, "documents")
        if not query.strip():
            raise RejectionError("Query cannot be empty")
        if not documents or not all(text.strip() for text in documents):
            raise RejectionError("Documents cannot be empty")
        asked, ids = self._ids(query), [self._ids(text) for text in documents]
        results = [
            {
                "score": self._relevance(asked, one),
                **({"document": documents[index]} if body.get("return_documents", True) else {}),
                "index": index,
                "meta_info": {"id": hex_id(32), "prompt_tokens": len(asked) + len(one)},
            }
            for index, one in enumerate(ids)
        ]
        results.sort(key=lambda result: -float(str(result["score"])))
        tokens = sum(len(asked) + len(one) for one in ids)
        return PoolingResult(tokens=tokens, body=orjson.dumps(results[: body.get("top_n")]))

    def _classes(self, texts: Sequence[str]) -> PoolingResult:
        ids = [self._ids(text) for text in texts]
        tokens = sum(len(one) for one in ids)
        head = {"id": f"classify-{hex_id()}", "object": "list", "created": now(), "model": self._options.name}
        data = [self._class(index, one) for index, one in enumerate(ids)]
        return PoolingResult(tokens=tokens, body=orjson.dumps({**head, "data": data, "usage": _usage(tokens)}))

    def _class(self, index: int, ids: Sequence[int]) -> Json:
        """A reranker has one class."""
        count = 1 if self._options.task is Task.RERANK else _CLASSES
        weights = [math.exp(value) for value in unit_vector(ids, count)]
        probs = [weight / sum(weights) for weight in weights]
        return {"index": index, "label": f"LABEL_{probs.index(max(probs))}", "probs": probs, "num_classes": count}

    def _compared(self, ones: Sequence[str], others: Sequence[str]) -> tuple[int, list[float]]:
        """The tokens of all texts, and a figure for each pair."""
        first, second = [self._ids(text) for text in ones], [self._ids(text) for text in others]
        tokens = sum(len(one) for one in [*first, *second])
        pairs = zip(first * (1 if len(first) == len(second) else len(second)), second, strict=True)
        return tokens, [self._relevance(one, other) for one, other in pairs]

    def _relevance(self, one: Sequence[int], other: Sequence[int]) -> float:
        if self._options.task is Task.EMBED:
            vectors = (unit_vector(ids, self._options.dimensions) for ids in (one, other))
            return math.fsum(left * right for left, right in zip(*vectors, strict=True))
        return len({*one} & {*other}) / max(1, len({*one} | {*other}))

    def _ids(self, text: str) -> tuple[int, ...]:
        return self._setup.tokenizer.encode(text)


def _texts(body: Json, *names: str) -> list[str]:
    """One text or several, under the first of the names that is there."""
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

"""Servers of embeddings and rerankers: Hugging Face's text-embeddings-inference, and infinity."""

from typing import Any

from berth import json_text
from berth.canonical import InferenceRequest, Json, Operation, UpstreamRequest
from berth.dialects import engine_load, pooling
from berth.dialects.attached.server import AttachedDialect
from berth.dialects.base import UnsupportedError
from berth.dialects.openai import METRICS_PATH
from berth.plan import DialectName

_RANKED = frozenset({Operation.RERANK, Operation.SCORE})


class InfinityDialect(AttachedDialect):
    """Checked against the responses of infinity_emb 0.0.78. Its API is at its root, unless it has a prefix."""

    name = DialectName.INFINITY
    server = "infinity"
    fragile = False
    needs_uuid = False
    continues_chat = continues_completion = False
    health_paths: tuple[str, ...] = ("/health", "/v1/models")
    rank_path = "/v1/rerank"
    takes_ids = False

    def spell(self, request: InferenceRequest, served_name: str) -> UpstreamRequest:
        if request.operation in _RANKED:
            query, documents = pooling.query_and_documents(request, self.server)
            ranked = {"model": served_name, "query": query, **self.documents(documents)}
            return UpstreamRequest(path=self.rank_path, body=json_text.dumps(ranked))
        if request.operation not in {Operation.EMBEDDING, Operation.MEDIA}:
            raise UnsupportedError(f"{self.server} has no {request.operation} endpoint", param="model")
        return super().spell(request, served_name)

    def documents(self, documents: Any) -> Json:
        """The documents of a ranking, in the words of this server."""
        return {"documents": documents, "return_documents": False}


class TeiDialect(InfinityDialect):
    """As its documentation has it. Its rankings are at its root, under other names than Cohere's."""

    name = DialectName.TEI
    server = "text-embeddings-inference"
    health_paths = ("/health",)
    load_paths = (METRICS_PATH,)
    load_series = engine_load.TEI
    rank_path = "/rerank"

    def documents(self, documents: Any) -> Json:
        return {"texts": documents}

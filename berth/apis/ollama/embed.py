"""Ollama's embeddings: POST /api/embed, and the superseded POST /api/embeddings."""

import time
from abc import ABC, abstractmethod
from typing import ClassVar

from berth import json_text
from berth.apis.base import NO_HEADERS, Headers, Immediate, StreamEncoder
from berth.apis.ollama.fields import EMBEDDING, check, ignored_fields
from berth.apis.ollama.request import TimedRequest, begun_ns
from berth.apis.ollama.response import GENERATE, OllamaEndpoint
from berth.apis.ollama.stream import OllamaStream
from berth.apis.openai.fields import read_object
from berth.apis.usage import usage_of
from berth.canonical import InferenceRequest, Operation


class _Embeddings(OllamaEndpoint, ABC):
    operation = Operation.EMBEDDING
    input_field: ClassVar[str]
    forwarded: ClassVar[tuple[str, ...]] = ()

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest | Immediate:
        begun_ns = time.monotonic_ns()
        document = read_object(body)
        check(document, EMBEDDING)
        model, text = document["model"], document.get(self.input_field)
        if not text:
            return Immediate(model=model, body=self.empty_response(model))
        fields = {name: document[name] for name in self.forwarded if document.get(name)}
        ignored = ignored_fields({**document, "options": None})
        return TimedRequest(
            operation=Operation.EMBEDDING,
            model=model,
            body={"model": model, "input": text, **fields},
            original=document,
            ignored=(*ignored, *(("options",) if document.get("options") else ())),
            begun_ns=begun_ns,
        )

    def stream(self, request: InferenceRequest) -> StreamEncoder:
        """Unused: embeddings are never streamed."""
        return OllamaStream(request, GENERATE)

    @abstractmethod
    def empty_response(self, model: str) -> bytes:
        """The response to a request without text."""


class OllamaEmbed(_Embeddings):
    input_field = "input"
    forwarded = ("dimensions",)

    def empty_response(self, model: str) -> bytes:
        return json_text.dumps({"model": model, "embeddings": []})

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        document = json_text.loads(body)
        vectors = [item["embedding"] for item in sorted(document["data"], key=lambda item: item.get("index", 0))]
        return json_text.dumps(
            {
                "model": request.model,
                "embeddings": vectors,
                "total_duration": time.monotonic_ns() - begun_ns(request),
                "load_duration": 0,
                "prompt_eval_count": usage_of(document.get("usage")).prompt_tokens,
            }
        )


class OllamaEmbeddings(_Embeddings):
    input_field = "prompt"

    def empty_response(self, model: str) -> bytes:
        return json_text.dumps({"embedding": []})

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        return json_text.dumps({"embedding": json_text.loads(body)["data"][0]["embedding"]})

"""Ollama's embeddings: POST /api/embed, and POST /api/embeddings, which it calls superseded."""

import time

import orjson

from berth.apis.base import NO_HEADERS, Headers, Immediate, StreamEncoder
from berth.apis.ollama.fields import EMBEDDING, check, ignored_fields
from berth.apis.ollama.response import GENERATE, OllamaAnswers, TimedRequest, begun_ns, usage_of
from berth.apis.ollama.stream import OllamaStream
from berth.apis.openai.fields import read_object
from berth.canonical import InferenceRequest, Json, Operation


class _Embeddings(OllamaAnswers):
    operation = Operation.EMBEDDING

    def stream(self, request: InferenceRequest) -> StreamEncoder:
        """Never asked for: a request is not streamed, and may fail before anybody knows."""
        return OllamaStream(request, GENERATE)


class OllamaEmbed(_Embeddings):
    def parse(
        self,
        body: bytes,
        headers: Headers = NO_HEADERS,  # noqa: ARG002 - ApiFormat's
    ) -> InferenceRequest | Immediate:
        since_ns = time.monotonic_ns()
        document = read_object(body)
        check(document, EMBEDDING)
        if not document.get("input"):
            return Immediate(model=document["model"], body=orjson.dumps({"model": document["model"], "embeddings": []}))
        dimensions = {"dimensions": document["dimensions"]} if document.get("dimensions") else {}
        return _request(document, {"input": document["input"], **dimensions}, since_ns)

    def answer(self, request: InferenceRequest, body: bytes) -> bytes:
        document = orjson.loads(body)
        vectors = [item["embedding"] for item in sorted(document["data"], key=lambda item: item.get("index", 0))]
        return orjson.dumps(
            {
                "model": request.model,
                "embeddings": vectors,
                "total_duration": time.monotonic_ns() - begun_ns(request),
                "load_duration": 0,
                "prompt_eval_count": usage_of(document.get("usage")).prompt_tokens,
            }
        )


class OllamaEmbeddings(_Embeddings):
    def parse(
        self,
        body: bytes,
        headers: Headers = NO_HEADERS,  # noqa: ARG002 - ApiFormat's
    ) -> InferenceRequest | Immediate:
        since_ns = time.monotonic_ns()
        document = read_object(body)
        check(document, EMBEDDING)
        if not document.get("prompt"):
            return Immediate(model=document["model"], body=b'{"embedding":[]}')
        return _request(document, {"input": document["prompt"]}, since_ns)

    def answer(self, request: InferenceRequest, body: bytes) -> bytes:  # noqa: ARG002 - an ApiFormat's signature
        return orjson.dumps({"embedding": orjson.loads(body)["data"][0]["embedding"]})


def _request(document: Json, fields: Json, since_ns: int) -> TimedRequest:
    return TimedRequest(
        operation=Operation.EMBEDDING,
        model=document["model"],
        body={"model": document["model"], **fields},
        original=document,
        ignored=(*ignored_fields({**document, "options": None}), *(("options",) if document.get("options") else ())),
        begun_ns=since_ns,
    )

"""Text Generation Inference's endpoints: POST /generate, /generate_stream, / and the paths of single models."""

from typing import Final

from berth import json_text
from berth.apis.base import NO_HEADERS, SSE, Headers, StreamEncoder
from berth.apis.openai.fields import read_object
from berth.apis.tgi.request import completion
from berth.apis.tgi.response import error_body, response_of, status
from berth.apis.tgi.stream import TgiStream
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import ApiError

VERSION: Final = "3.3.6"  # of TGI, whose API this is


class _Tgi:
    operation = Operation.COMPLETION
    stream_type = SSE
    native = False
    request_id_header = b"x-request-id"

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        return json_text.dumps(response_of(request, json_text.loads(body)))

    def stream(self, request: InferenceRequest) -> StreamEncoder:
        return TgiStream(request)

    def status(self, error: ApiError) -> int:
        return status(error)

    def error(self, error: ApiError) -> bytes:
        return error_body(error)


class TgiGenerate(_Tgi):
    """/generate and /generate_stream."""

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        return completion(read_object(body), headers, stream=self._stream)


class TgiRoot(_Tgi):
    """The request's `stream` decides, and a non-streaming response is an array with one element."""

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        return completion(document, headers, stream=document.get("stream") is True)

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        return b"[" + super().response(request, body) + b"]"


def info(model: str, context: int | None, berth_version: str) -> Json:
    """The response to GET /info: one model, and its limits where known."""
    tokens = {} if context is None else {"max_input_tokens": context - 1, "max_total_tokens": context}
    return {
        "model_id": model,
        "model_sha": None,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": 0,
        "max_best_of": 1,
        "max_stop_sequences": 4,
        **tokens,
        "validation_workers": 1,
        "max_client_batch_size": 1,
        "router": "berth",
        "version": VERSION,
        "sha": None,
        "docker_label": f"berth-{berth_version}",
    }

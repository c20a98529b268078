"""Anthropic's Messages API: POST /v1/messages and POST /v1/messages/count_tokens."""

from msgspec.structs import replace

from berth import json_text
from berth.apis.anthropic.errors import error_body, error_status
from berth.apis.anthropic.request import count_fields, message_fields
from berth.apis.anthropic.response import message_of
from berth.apis.anthropic.stream import AnthropicStream
from berth.apis.base import NO_HEADERS, SSE, Headers, StreamEncoder
from berth.apis.openai.fields import read_object, request_of
from berth.apis.tool_arguments import keep_inputs
from berth.canonical import CHAT, InferenceRequest, Operation
from berth.errors import ApiError


class _Anthropic:
    """The common part of all endpoints."""

    stream_type = SSE
    native = False
    request_id_header = b"request-id"

    def stream(self, request: InferenceRequest) -> StreamEncoder:
        return AnthropicStream(request)

    def status(self, error: ApiError) -> int:
        return error_status(error)

    def error(self, error: ApiError) -> bytes:
        return error_body(error)


class AnthropicMessages(_Anthropic):
    operation = CHAT

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        if b'tool_use"' in body:
            keep_inputs(document, body)
        fields, ignored = message_fields(document)
        request = request_of(CHAT, fields)
        return replace(request, include_usage=request.stream, original=document, ignored=ignored, at_most=True)

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        return json_text.dumps(message_of(request, json_text.loads(body)))


class AnthropicCountTokens(_Anthropic):
    operation = Operation.TOKENIZE

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        if b'tool_use"' in body:
            keep_inputs(document, body)
        fields, ignored = count_fields(document)
        return replace(request_of(Operation.TOKENIZE, fields), original=document, ignored=ignored)

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        return json_text.dumps({"input_tokens": json_text.loads(body)["count"]})

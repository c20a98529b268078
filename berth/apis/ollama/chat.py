"""Ollama's chat: POST /api/chat."""

import time

from msgspec.structs import replace

from berth.apis.base import NO_HEADERS, Headers, Immediate, StreamEncoder
from berth.apis.ollama.fields import GENERATING, LIST, check, ignored_fields, keep_alive_s
from berth.apis.ollama.messages import chat_messages, chat_tools
from berth.apis.ollama.request import chat_request
from berth.apis.ollama.response import CHAT, OllamaEndpoint, load_response, response_body
from berth.apis.ollama.stream import OllamaStream
from berth.apis.openai.fields import Rule, read_object
from berth.apis.tool_arguments import keep_arguments
from berth.canonical import InferenceRequest, Operation

RULES: dict[str, Rule] = {**GENERATING, "messages": LIST, "tools": LIST}


class OllamaChat(OllamaEndpoint):
    operation = Operation.CHAT

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest | Immediate:
        begun_ns = time.monotonic_ns()
        document = read_object(body)
        if b'"tool_calls"' in body:
            keep_arguments(document, body)
        check(document, RULES)
        if not document.get("messages"):
            return load_response(document["model"], CHAT, keep_alive_s=keep_alive_s(document))
        request = chat_request(document, chat_messages(document["messages"]), begun_ns, ignored_fields(document))
        if document.get("tools"):
            return replace(request, body={**request.body, "tools": chat_tools(document["tools"])})
        return request

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        return response_body(request, CHAT, body)

    def stream(self, request: InferenceRequest) -> StreamEncoder:
        return OllamaStream(request, CHAT)

"""Ollama's chat: POST /api/chat."""

import time
from dataclasses import replace
from typing import Any

from berth.apis.base import NO_HEADERS, Headers, Immediate, StreamEncoder
from berth.apis.ollama.fields import (
    GENERATING,
    LIST,
    check,
    generation_fields,
    ignored_fields,
    is_streamed,
    is_unloading,
    thinking_fields,
)
from berth.apis.ollama.messages import chat_messages, chat_tools, continues_last
from berth.apis.ollama.response import CHAT, OllamaAnswers, TimedRequest, loaded, whole_answer
from berth.apis.ollama.stream import OllamaStream
from berth.apis.openai.fields import Rule, read_object
from berth.canonical import InferenceRequest, Json, Operation

RULES: dict[str, Rule] = {**GENERATING, "messages": LIST, "tools": LIST}


class OllamaChat(OllamaAnswers):
    operation = Operation.CHAT

    def parse(
        self,
        body: bytes,
        headers: Headers = NO_HEADERS,  # noqa: ARG002 - ApiFormat's
    ) -> InferenceRequest | Immediate:
        begun_ns = time.monotonic_ns()
        document = read_object(body)
        check(document, RULES)
        if not document.get("messages"):
            return loaded(document["model"], CHAT, unloading=is_unloading(document))
        request = chat_request(document, chat_messages(document["messages"]), begun_ns, ignored_fields(document))
        return _with_tools(request, document.get("tools"))

    def answer(self, request: InferenceRequest, body: bytes) -> bytes:
        return whole_answer(request, CHAT, body)

    def stream(self, request: InferenceRequest) -> StreamEncoder:
        return OllamaStream(request, CHAT)


def _with_tools(request: TimedRequest, tools: list[Any] | None) -> TimedRequest:
    return replace(request, body={**request.body, "tools": chat_tools(tools)}) if tools else request


def chat_request(document: Json, messages: list[Json], begun_ns: int, ignored: tuple[str, ...]) -> TimedRequest:
    """Of a document whose fields were checked."""
    body: Json = {"model": document["model"], "messages": messages, **generation_fields(document)}
    if continues_last(messages):  # thinking would be over by then, and engines take the rest of the answer for it
        body |= {"continue_final_message": True, "add_generation_prompt": False, **thinking_fields(False)}
    else:
        body |= thinking_fields(document.get("think"))
    if document.get("logprobs"):
        body |= {"logprobs": True, "top_logprobs": document.get("top_logprobs") or 0}
    stream = is_streamed(document)
    if stream:
        body["stream"] = True
    return TimedRequest(
        operation=Operation.CHAT,
        model=document["model"],
        body=body,
        stream=stream,
        include_usage=stream,
        original=document,
        ignored=ignored,
        at_most=True,
        begun_ns=begun_ns,
    )

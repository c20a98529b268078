"""OpenAI's Responses: POST /v1/responses, and /v1/responses/input_tokens, which counts the tokens of a request."""

import secrets
import sys
import time
from collections.abc import Callable

from berth import json_text
from berth.apis.base import NO_HEADERS, Headers, StreamEncoder
from berth.apis.openai.fields import read_object
from berth.apis.openai.passthrough import OpenaiEndpoint
from berth.apis.responses.request import Reader, ResponsesRequest
from berth.apis.responses.response import output_of, response_of, status_of
from berth.apis.responses.store import ResponseStore, StoredResponse
from berth.apis.responses.stream import ResponsesStream
from berth.canonical import InferenceRequest, Json, Operation

# the fields that make up the prompt
_COUNTED = ("model", "messages", "tools", "tool_choice", "reasoning_effort", "chat_template_kwargs")


def new_token() -> str:
    """Unguessable: without API keys, everyone who knows a response's id can read it."""
    return secrets.token_hex(24)


class OpenaiResponses(OpenaiEndpoint):
    operation = Operation.CHAT

    def __init__(
        self,
        store: ResponseStore,
        *,
        token: Callable[[], str] = new_token,
        clock: Callable[[], float] = time.time,
        most_bytes: int = sys.maxsize,
    ) -> None:
        self._store = store
        self._reader = Reader(store=store, new_token=token, clock=clock, most_bytes=most_bytes)

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        return self._reader.read(read_object(body), headers, self.operation, size=len(body))

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        own = _own(request)
        document = json_text.loads(body)
        choice = document["choices"][0]
        finish, usage = choice.get("finish_reason"), document.get("usage")
        response = response_of(own, status_of(finish), output_of(own, choice), finish=finish, usage=usage)
        self._save(own, response)
        return json_text.dumps(response)

    def stream(self, request: InferenceRequest) -> StreamEncoder:
        own = _own(request)
        return ResponsesStream(own, lambda response: self._save(own, response))

    def _save(self, request: ResponsesRequest, response: Json) -> None:
        if request.store:
            self._store.put(request.owner, StoredResponse(response=response, input=request.conversation))


class OpenaiInputTokens(OpenaiEndpoint):
    operation = Operation.TOKENIZE

    def __init__(self, store: ResponseStore, *, most_bytes: int = sys.maxsize) -> None:
        self._reader = Reader(store=store, new_token=new_token, most_bytes=most_bytes)

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        request = self._reader.read(read_object(body), headers, self.operation, size=len(body))
        return InferenceRequest(
            operation=self.operation,
            model=request.model,
            body={name: request.body[name] for name in _COUNTED if name in request.body},
            original=request.original,
            ignored=request.ignored,
            earlier_bytes=request.earlier_bytes,
        )

    def response(self, request: InferenceRequest, body: bytes) -> bytes:
        count = json_text.loads(body)["count"]
        return json_text.dumps({"object": "response.input_tokens", "input_tokens": count})


def _own(request: InferenceRequest) -> ResponsesRequest:
    assert isinstance(request, ResponsesRequest)  # noqa: S101 - `parse` makes no others
    return request

"""OpenAI's Responses: POST /v1/responses, and /v1/responses/input_tokens, which counts what a request would cost."""

import secrets
import time
from collections.abc import Callable

import orjson

from berth.apis.base import NO_HEADERS, Headers, StreamEncoder
from berth.apis.openai.fields import read_object
from berth.apis.openai.passthrough import OpenaiAnswers
from berth.apis.responses.request import Reader, ResponsesRequest
from berth.apis.responses.response import output_of, response_of, status_of
from berth.apis.responses.store import ResponseStore, StoredResponse
from berth.apis.responses.stream import ResponsesStream
from berth.canonical import InferenceRequest, Json, Operation

# what makes a prompt
_COUNTED = ("model", "messages", "tools", "tool_choice", "reasoning_effort", "chat_template_kwargs")


def new_token() -> str:
    """Nobody guesses it: without API keys, whoever knows a response's id reads it."""
    return secrets.token_hex(24)


class OpenaiResponses(OpenaiAnswers):
    operation = Operation.CHAT

    def __init__(
        self, store: ResponseStore, *, token: Callable[[], str] = new_token, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._reader = Reader(store=store, new_token=token, clock=clock)

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        return self._reader.read(read_object(body), headers, self.operation)

    def answer(self, request: InferenceRequest, body: bytes) -> bytes:
        ours = _own(request)
        document = orjson.loads(body)
        choice = document["choices"][0]
        finish = choice.get("finish_reason")
        response = response_of(
            ours, status_of(finish), output_of(ours, choice), finish=finish, usage=document.get("usage")
        )
        self._keep(ours, response)
        return orjson.dumps(response)

    def stream(self, request: InferenceRequest) -> StreamEncoder:
        ours = _own(request)
        return ResponsesStream(ours, lambda response: self._keep(ours, response))

    def _keep(self, request: ResponsesRequest, response: Json) -> None:
        if request.store:
            self._store.put(request.owner, StoredResponse(response=response, input=request.conversation))


class OpenaiInputTokens(OpenaiAnswers):
    operation = Operation.TOKENIZE

    def __init__(self, store: ResponseStore) -> None:
        self._reader = Reader(store=store, new_token=new_token)

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        request = self._reader.read(read_object(body), headers, self.operation)
        return InferenceRequest(
            operation=self.operation,
            model=request.model,
            body={name: request.body[name] for name in _COUNTED if name in request.body},
            original=request.original,
            ignored=request.ignored,
        )

    def answer(self, request: InferenceRequest, body: bytes) -> bytes:  # noqa: ARG002 - an ApiFormat's signature
        count = orjson.loads(body)["count"]
        return orjson.dumps({"object": "response.input_tokens", "input_tokens": count})


def _own(request: InferenceRequest) -> ResponsesRequest:
    assert isinstance(request, ResponsesRequest)  # noqa: S101 - `parse` makes no others
    return request

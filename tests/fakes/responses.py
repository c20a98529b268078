"""The Responses API in tests: requests, a store in memory, and the official client as the judge of what comes out."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from typing import Any, Final, get_args

import httpx2
import openai
import orjson
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from berth import json_text
from berth.apis.base import Headers
from berth.apis.responses.endpoints import OpenaiResponses
from berth.apis.responses.request import ResponsesRequest
from berth.apis.responses.store import StoredResponse
from berth.canonical import Json
from berth.sse import DONE, FrameSplitter, data_of

TERMINAL: Final = ("response.completed", "response.incomplete", "response.failed")
NOW: Final = 1_772_000_000
_EVENTS: Final[dict[str, type[BaseModel]]] = {
    get_args(event.model_fields["type"].annotation)[0]: event for event in get_args(get_args(ResponseStreamEvent)[0])
}
_ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)
WEATHER: Final[Json] = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}


class Memory:
    """A ResponseStore."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], StoredResponse] = {}

    def owner(self, headers: Headers) -> str:
        return headers.get(b"authorization", b"").decode()

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        return self.kept.get((owner, response_id))

    def put(self, owner: str, stored: StoredResponse) -> None:
        size = len(json_text.dumps({"response": stored.response, "input": stored.input}))
        self.kept[owner, stored.id] = replace(stored, size_bytes=size)

    def delete(self, owner: str, response_id: str) -> bool:
        return self.kept.pop((owner, response_id), None) is not None


def api(store: Memory | None = None) -> OpenaiResponses:
    """Its tokens are 0a1, 0a2, ..., and it is always the same moment."""
    numbers = count(1)
    return OpenaiResponses(store or Memory(), token=lambda: f"0a{next(numbers)}", clock=lambda: NOW)


def request_of(headers: Headers | None = None, **fields: Any) -> ResponsesRequest:
    """Of the model "m", saying hello unless told otherwise."""
    request = api().parse(orjson.dumps({"model": "m", "input": "Hello", **fields}), headers or {})
    assert isinstance(request, ResponsesRequest)
    return request


def frame(delta: Json | None = None, *, finish: str | None = None, logprobs: Json | None = None) -> bytes:
    """A canonical frame of a chat."""
    choice = {"index": 0, "delta": delta or {}, "logprobs": logprobs, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + orjson.dumps({**head, "choices": [choice]}) + b"\n\n"


def reasoning(text: str) -> bytes:
    return frame({"reasoning": text, "reasoning_content": text})


def call(index: int, arguments: str = "", *, name: str | None = None, call_id: str | None = None) -> bytes:
    """The first delta of a call has its name."""
    function = {"arguments": arguments, **({"name": name} if name else {})}
    first = {"id": call_id or f"call_{index}", "type": "function"} if name else {}
    return frame({"tool_calls": [{"index": index, **first, "function": function}]})


def usage(prompt: int = 3, completion: int = 4, **details: Any) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    numbers = {**counts, "total_tokens": prompt + completion, **details}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + orjson.dumps({**head, "choices": [], "usage": numbers}) + b"\n\n"


def stream_of(*says: bytes, finish: str = "stop") -> list[bytes]:
    """The frames of a whole stream."""
    return [frame({"role": "assistant", "content": ""}), *says, frame(finish=finish), usage(), DONE]


def encode(request: ResponsesRequest, frames: Iterable[bytes], store: Memory | None = None) -> bytes:
    encoder = api(store).stream(request)
    return b"".join(encoder.feed(one) for one in frames)


def events(stream: bytes) -> list[Json]:
    """The events of a stream, each checked against the official client's type for it, strictly."""
    splitter = FrameSplitter()
    found = []
    for one in splitter.feed(stream):
        data = data_of(one)
        if data is None:
            continue
        document = orjson.loads(data)
        assert one.startswith(f"event: {document['type']}\n".encode())
        error = document.get("response", {}).get("error")
        if error is None or error["code"] != "context_length_exceeded":  # OpenAI sends it, its client does not list it
            _EVENTS[document["type"]].model_validate_json(data, strict=True)
        found.append(document)
    assert splitter.pending == b""
    return found


def check_order(found: list[Json]) -> None:
    """What holds for every stream: numbers, one end, items that open and close once, indexes without gaps."""
    kinds = [event["type"] for event in found]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert [kind in TERMINAL for kind in kinds] == [False] * (len(kinds) - 1) + [True]
    added = [event["output_index"] for event in found if event["type"] == "response.output_item.added"]
    done = [event["output_index"] for event in found if event["type"] == "response.output_item.done"]
    assert added == list(range(len(added)))
    if kinds[-1] != "response.failed":
        assert sorted(done) == added
        items = [event["item"] for event in found if event["type"] == "response.output_item.done"]
        in_order = [item for _, item in sorted(zip(done, items, strict=True), key=lambda pair: pair[0])]
        assert found[-1]["response"]["output"] == in_order


def check_item(item: Json) -> None:
    assert _ITEM.validate_json(orjson.dumps(item), strict=True).type == item["type"]


def check_response(document: Json) -> Json:
    Response.model_validate_json(orjson.dumps(document), strict=True)
    return document


class OfficialClient:
    """openai's client, which gets the bytes that a test gives it."""

    def __init__(self) -> None:
        self._bytes = b""
        transport = httpx2.MockTransport(self._answer)
        self._client = openai.OpenAI(
            base_url="http://berth/v1", api_key="none", http_client=httpx2.Client(transport=transport)
        )

    def accumulated(self, stream: bytes) -> Json:
        """The final response as the client puts it together."""
        self._bytes = stream
        with self._client.responses.stream(model="m", input="Hello") as running:
            return dict(running.get_final_response().to_dict())

    def snapshots(self, stream: bytes) -> list[str]:
        """What the client's events say of the text so far."""
        self._bytes = stream
        with self._client.responses.stream(model="m", input="Hello") as running:
            return [event.snapshot for event in running if event.type == "response.output_text.delta"]

    def _answer(self, request: httpx2.Request) -> httpx2.Response:  # noqa: ARG002 - a transport's signature
        return httpx2.Response(200, content=self._bytes, headers={"content-type": "text/event-stream"})

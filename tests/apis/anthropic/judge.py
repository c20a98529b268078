"""Checks with Anthropic's official client, and canonical streams as input."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import orjson
from anthropic._streaming import SSEDecoder
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, ParsedMessage, RawMessageStreamEvent
from pydantic import BaseModel, TypeAdapter

from berth.apis.anthropic.endpoints import AnthropicMessages
from berth.canonical import InferenceRequest, Json
from berth.sse import DONE, frame

HELLO: list[Json] = [{"role": "user", "content": "Hello"}]
_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
_CHUNK: Json = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def parse(**fields: Any) -> InferenceRequest:
    document = {"model": "m", "max_tokens": 100, "messages": HELLO, **fields}
    return AnthropicMessages().parse(orjson.dumps({k: v for k, v in document.items() if v is not ...}))


def chunk(delta: Json | None = None, **choice: Any) -> bytes:
    """A canonical frame of one choice."""
    whole = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": None, **choice}
    return frame(orjson.dumps({**_CHUNK, "choices": [whole]}))


def text(content: str) -> bytes:
    return chunk({"content": content})


def reasoning(content: str) -> bytes:
    return chunk({"reasoning": content, "reasoning_content": content})


def call(index: int, name: str, arguments: str = "", *, call_id: str | None = None) -> bytes:
    function = {"name": name, "arguments": arguments}
    begun = {"id": call_id or f"c{index}", "type": "function", "index": index, "function": function}
    return chunk({"tool_calls": [begun]})


def more(index: int, arguments: str) -> bytes:
    return chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})


def usage(prompt: int = 7, completion: int = 5, **details: Any) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **details}
    return frame(orjson.dumps({**_CHUNK, "choices": [], "usage": counts}))


def end(reason: str = "stop", **choice: Any) -> bytes:
    """The last three frames."""
    return chunk(finish_reason=reason, **choice) + usage() + DONE


def encoded(frames: Sequence[bytes], **fields: Any) -> bytes:
    """What the client gets for these pieces of a canonical stream, fed one by one."""
    encoder = AnthropicMessages().stream(parse(stream=True, **fields))
    return b"".join([encoder.feed(piece) for piece in frames])


def events(stream: bytes) -> list[Json]:
    """The data of each event, as the client's decoder finds them; each has the name of its type."""
    decoded = list(SSEDecoder().iter_bytes(iter([stream])))
    documents = [orjson.loads(event.data) for event in decoded if event.data]
    assert [event.event for event in decoded if event.data] == [document["type"] for document in documents]
    return documents


def message(stream: bytes) -> Json:
    """The client's final message, after every event was found to be one of its own, and in its place."""
    found = [event for event in events(stream) if event["type"] != "ping"]
    check_order(found)
    snapshot: ParsedMessage[None] | None = None
    buffers: dict[int, bytes] = {}
    for event in found:
        snapshot = accumulate_event(event=checked(event, _EVENT), current_snapshot=snapshot, json_bufs=buffers)
    assert snapshot is not None
    final = cast("Json", snapshot.to_dict(mode="json", warnings=False))
    assert final.pop("stop_details") is None  # the accumulator sets it in any case
    return final


def check_order(found: Iterable[Json]) -> None:
    """One start, blocks one after the other, the delta of the message, one stop, nothing more. Or an error at the end,
    where the model wrote arguments that are none.
    """
    opened: str | None = None
    blocks = 0
    types = []
    for event in found:
        match event["type"]:
            case "content_block_start":
                assert opened is None
                assert event["index"] == blocks
                opened = event["content_block"]["type"]
            case "content_block_delta":
                assert event["index"] == blocks
                assert (opened, event["delta"]["type"]) in _FITTING
                assert event["delta"].get(event["delta"]["type"].removesuffix("_delta"), "-") != ""
                assert event["delta"].get("partial_json", "-") != ""
            case "content_block_stop":
                assert opened is not None
                assert event["index"] == blocks
                blocks, opened = blocks + 1, None
            case other:
                assert opened is None
                types.append(other)
    assert types in (["message_start", "message_delta", "message_stop"], ["message_start", "error"])


_FITTING = {
    ("text", "text_delta"),
    ("thinking", "thinking_delta"),
    ("thinking", "signature_delta"),
    ("tool_use", "input_json_delta"),
}


def checked(document: Json, adapter: TypeAdapter[Any]) -> Any:
    """By the client's types, without conversions and without fields that it does not know."""
    model = adapter.validate_python(document, strict=True)
    _no_strange_fields(model)
    return model


def checked_message(body: bytes) -> Json:
    checked(orjson.loads(body), TypeAdapter(Message))
    return cast("Json", orjson.loads(body))


def checked_error(document: Json) -> Json:
    """The type is left to the caller: the client's list of them has gaps."""
    assert document.keys() == {"type", "error"}
    assert document["type"] == "error"
    assert document["error"].keys() == {"type", "message"}
    return cast("Json", document["error"])


def _no_strange_fields(value: Any) -> None:
    if isinstance(value, BaseModel):
        assert not value.model_extra, f"{type(value).__name__} has no {value.model_extra}"
        for inner in dict(value).values():
            _no_strange_fields(inner)
    if isinstance(value, list):
        for inner in value:
            _no_strange_fields(inner)

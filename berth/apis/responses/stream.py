"""A streamed response: canonical frames in, the events of the Responses API out.

Items are sent one after another. Only calls whose deltas an engine interleaves are open at the same time, as the API
allows: a call is closed once its arguments are complete and another item begins, or at the end. A frame with nothing
but text is not parsed: its event differs from the one before only in its text and its number, which is therefore last.
"""

from collections.abc import Callable
from typing import Any, Final

import orjson

from berth import json_text
from berth.apis.responses.client_tools import CALLS
from berth.apis.responses.request import ResponsesRequest
from berth.apis.responses.response import (
    call_item,
    call_status,
    error_of,
    item_id,
    logprobs_of,
    message_item,
    reasoning_item,
    response_of,
    status_of,
    text_part,
)
from berth.apis.stream_events import RESPONSES
from berth.apis.tool_arguments import StreamedArguments
from berth.apis.translated_stream import TranslatedStream
from berth.canonical import Json
from berth.errors import ApiError
from berth.frame_template import template_with_ends
from berth.sse import comment
from berth.sse import frame as sse_frame

_TEXT_KEY: Final = b'"content":"'
_MAX_TEMPLATES: Final = 16  # per stream: frames that never look alike are parsed


class _TextItem:
    """A message or the reasoning before it, while it is streamed."""

    __slots__ = (
        "after",
        "before",
        "delta",
        "index",
        "kind",
        "location",
        "logprobs",
        "part_kind",
        "pieces",
        "reasoning",
        "summarises",
    )

    def __init__(self, request: ResponsesRequest, index: int, *, reasoning: bool) -> None:
        self.index = index
        self.reasoning = reasoning
        self.pieces: list[bytes] = []  # of the text, escaped as JSON
        self.logprobs: list[Json] = []
        self.summarises = reasoning and request.summarises
        place = "summary_index" if self.summarises else "content_index"
        prefix = "rs" if reasoning else "msg"
        self.location: Json = {"item_id": item_id(request, prefix, index), "output_index": index, place: 0}
        self.part_kind = "response.reasoning_summary_part" if self.summarises else "response.content_part"
        self.kind = "response.output_text"
        if reasoning:
            self.kind = "response.reasoning_summary_text" if self.summarises else "response.reasoning_text"
        head = json_text.dumps({"type": f"{self.kind}.delta", **self.location})[:-1]
        self.before = (
            b"event: " + self.kind.encode() + b".delta\ndata: " + head + b',"delta":"'
        )  # before a delta's text
        self.after = b'","sequence_number":' if reasoning else b'","logprobs":[],"sequence_number":'
        self.delta = self.before + b"%b" + self.after + b"%d}\n\n"  # ids contain no percent sign

    @property
    def text(self) -> str:
        joined = b"".join(self.pieces)
        try:
            return str(json_text.loads(b'"' + joined + b'"'))
        except orjson.JSONDecodeError:  # an engine wrote invalid JSON in frames that were forwarded unparsed
            return joined.decode(errors="replace")

    def part(self, text: str) -> Json:
        if self.reasoning:
            return {"type": "summary_text" if self.summarises else "reasoning_text", "text": text}
        return text_part(text, self.logprobs)

    def item(self, request: ResponsesRequest, status: str) -> Json:
        if self.reasoning:
            return reasoning_item(request, self.index, self.text, status)
        return message_item(request, self.index, self.text, status, self.logprobs)


class _CallItem:
    """A tool call while its arguments are streamed."""

    def __init__(self, index: int, call_id: str | None, name: str) -> None:
        self.index = index
        self.call_id = call_id
        self.name = name
        self.arguments = StreamedArguments()

    def item(self, request: ResponsesRequest, status: str) -> Json:
        return call_item(request, self.index, self.call_id, self.name, self.arguments.text, status=status)


class ResponsesStream(TranslatedStream):
    """`finished` gets the response before the client does."""

    __slots__ = (
        "_calls",
        "_closed_calls",
        "_complete_calls",
        "_finish",
        "_finished",
        "_items",
        "_number",
        "_output",
        "_request",
        "_settled",
        "_started",
        "_templates_left",
        "_text",
        "_usage",
    )

    def __init__(self, request: ResponsesRequest, finished: Callable[[Json], None]) -> None:
        super().__init__()
        self._request = request
        self._finished = finished
        self._number = 0  # of the next event
        self._started = False
        self._settled: tuple[int, bool] | None = None  # number and start as of the last event, while a frame is read
        self._items = 0  # number of items, open ones included
        self._output: dict[int, Json] = {}  # the closed items
        self._text: _TextItem | None = None  # the open one; the template is for its frames
        self._calls: dict[int, _CallItem] = {}  # the open ones, by the engine's index
        self._complete_calls: dict[int, None] = {}  # those of them whose arguments were complete at their last delta
        self._closed_calls: set[int] = set()
        self._finish: str | None = None
        self._usage: Json | None = None
        self._templates_left = 0 if request.body.get("logprobs") else _MAX_TEMPLATES  # logprobs differ in each frame

    def feed(self, frames: bytes) -> bytes:
        template, text = self._template, self._text
        if template is None or text is None or not template.matches(frames):
            return self._feed_parsed(frames)
        piece = template.text(frames)
        text.pieces.append(piece)
        number = self._number
        self._number = number + 1
        return text.delta % (piece, number)

    def fail(self, error: ApiError) -> bytes:
        """`response.failed`, after `response.created` where that was not sent yet: clients insist on it."""
        if self._over:
            return b""
        self._over = True
        if self._settled is not None:  # the events of the last frame could not be written
            self._number, self._started = self._settled
        sent = self._start()
        number = self._number
        try:
            return sent + self._failed(error)
        except Exception:  # noqa: BLE001 - what cannot be written, and why the stream fails, may be among its items
            self._number, self._usage, self._text = number, None, None
            self._output.clear()
            self._calls.clear()
            return sent + self._failed(error)

    def _failed(self, error: ApiError) -> bytes:
        for item in (self._text, *self._calls.values()):
            if item is not None:
                self._output[item.index] = item.item(self._request, "incomplete")
        response = response_of(
            self._request, "failed", self._items_in_order(), usage=self._usage, error=error_of(error)
        )
        event = self._event(RESPONSES.failed, response=response)
        self._finished(response)
        return event

    def heartbeat(self, text: str) -> bytes:
        """A comment for human readers, and an event: Codex counts events to see whether a stream is alive."""
        if self._over:
            return b""
        started = self._start()
        return comment(text) + (started or self._event("response.in_progress", response=self._unfinished_response()))

    def translate(self, chunk: Json, frame: bytes) -> bytes:
        self._settled = self._number, self._started
        sent = [self._start()]
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            delta, finish = choice.get("delta") or {}, choice.get("finish_reason")
            reasoning, calls = delta.get("reasoning"), delta.get("tool_calls") or ()
            if reasoning:
                sent.append(self._add_text(reasoning, [], reasoning=True))
            if text := delta.get("content") or delta.get("refusal"):
                sent.append(self._add_text(text, logprobs_of(choice), reasoning=False))
                item, text_only = self._text, not (reasoning or calls or finish)
                if item is not None and text_only and self._templates_left:
                    self._templates_left -= 1
                    self._template = template_with_ends(frame, _TEXT_KEY, item.before, item.after)
            sent.extend(self._add_to_call(call) for call in calls)
            if finish:
                self._finish = finish
                sent.append(self._close_all())
        self._settled = None
        return b"".join(sent)

    def _start(self) -> bytes:
        """The events before all others, once."""
        if self._started:
            return b""
        self._started = True
        response = self._unfinished_response()
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def _add_text(self, text: str, logprobs: list[Json], *, reasoning: bool) -> bytes:
        sent, item = b"", self._text
        if item is None or item.reasoning != reasoning:
            sent = self._close_text("completed") + self._close_complete_calls()
            item = self._text = _TextItem(self._request, self._next_index(), reasoning=reasoning)
            sent += self._open_text(item)
        piece = json_text.dumps(text)[1:-1]
        item.pieces.append(piece)
        item.logprobs += logprobs
        number = self._number
        self._number = number + 1
        if logprobs:
            rest = b'","logprobs":' + json_text.dumps(logprobs) + b',"sequence_number":%d}\n\n' % number
            return sent + item.before + piece + rest
        return sent + item.delta % (piece, number)

    def _open_text(self, text: _TextItem) -> bytes:
        item = text.item(self._request, "in_progress") | {"content": []}
        item.pop("encrypted_content", None)
        added = self._event("response.output_item.added", output_index=text.index, item=item)
        return added + self._event(f"{text.part_kind}.added", **text.location, part=text.part(""))

    def _close_text(self, status: str) -> bytes:
        item, self._text, self._template = self._text, None, None
        if item is None:
            return b""
        text = item.text
        logprobs = {} if item.reasoning else {"logprobs": item.logprobs}
        done = self._event(f"{item.kind}.done", **item.location, text=text, **logprobs)
        done += self._event(f"{item.part_kind}.done", **item.location, part=item.part(text))
        return done + self._close(item.index, item.item(self._request, status))

    def _add_to_call(self, delta: Json) -> bytes:
        place, function = delta["index"], delta.get("function") or {}
        if place in self._closed_calls:
            return b""  # only white space can follow complete arguments
        sent = b""
        call = self._calls.get(place)
        if call is None:
            sent = self._close_text("completed") + self._close_complete_calls()
            call = self._calls[place] = _CallItem(self._next_index(), delta.get("id"), function.get("name") or "")
            item = call.item(self._request, "in_progress")
            sent += self._event("response.output_item.added", output_index=call.index, item=item)
        arguments = function.get("arguments") or ""
        if arguments:
            call.arguments.pieces.append(arguments)
        if call.arguments.is_complete():
            self._complete_calls[place] = None
        else:
            self._complete_calls.pop(place, None)
        origin = self._request.origins.get(call.name)
        if not arguments or (origin is not None and (origin.custom or origin.kind)):
            return sent  # the text of a custom tool is one JSON string, sent when it is complete
        kind, identity = "response.function_call_arguments.delta", item_id(self._request, "fc", call.index)
        return sent + self._event(kind, item_id=identity, output_index=call.index, delta=arguments)

    def _close_complete_calls(self) -> bytes:
        return b"".join([self._close_call(place) for place in tuple(self._complete_calls)])

    def _close_call(self, place: int) -> bytes:
        call = self._calls.pop(place)
        self._closed_calls.add(place)
        self._complete_calls.pop(place, None)
        item = call.item(self._request, call_status(self._finish, complete=call.arguments.is_complete()))
        if item["type"] in CALLS:
            return self._close(call.index, item)
        location = {"item_id": item["id"], "output_index": call.index}
        if item["type"] == "custom_tool_call":
            kind, rest, result = "response.custom_tool_call_input", item["input"], {"input": item["input"]}
        else:
            kind, rest = "response.function_call_arguments", item["arguments"].removeprefix(call.arguments.text)
            result = {"name": item["name"], "arguments": item["arguments"]}
        sent = self._event(f"{kind}.delta", **location, delta=rest) if rest else b""
        sent += self._event(f"{kind}.done", **location, **result)
        return sent + self._close(call.index, item)

    def _close(self, index: int, item: Json) -> bytes:
        self._output[index] = item
        return self._event("response.output_item.done", output_index=index, item=item)

    def _close_all(self) -> bytes:
        sent = self._close_text(status_of(self._finish))
        return sent + b"".join([self._close_call(place) for place in tuple(self._calls)])

    def end(self) -> bytes:
        """The one terminal event. Where it must be `completed`, the status in the response is the true one."""
        self._settled = self._number, self._started
        sent = self._start() + self._close_all()
        status = status_of(self._finish)
        if not self._output:
            self._text = _TextItem(self._request, self._next_index(), reasoning=False)
            sent += self._open_text(self._text) + self._close_text(status)
        response = response_of(self._request, status, self._items_in_order(), finish=self._finish, usage=self._usage)
        completed, incomplete = RESPONSES.complete
        kind = incomplete if status == "incomplete" and self._request.knows_incomplete else completed
        event = self._event(kind, response=response)
        self._finished(response)
        return sent + event

    def _unfinished_response(self) -> Json:
        return response_of(self._request, "in_progress", self._items_in_order())

    def _items_in_order(self) -> list[Json]:
        return [self._output[index] for index in sorted(self._output)]

    def _next_index(self) -> int:
        self._items += 1
        return self._items - 1

    def _event(self, kind: str, **fields: Any) -> bytes:
        number = self._number
        self._number = number + 1
        return sse_frame(json_text.dumps({"type": kind, **fields, "sequence_number": number}), event=kind.encode())

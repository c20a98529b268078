"""A streamed response: canonical frames in, the events of the Responses API out.

Items come one after the other. Only calls whose deltas an engine mixes are open side by side, as the API allows: a call
is closed as soon as its arguments are whole and something else begins, or at the end. A frame with nothing but text
costs no parsing: its event differs from the one before in its text and its number, which stands at the end for that.
"""

from collections.abc import Callable
from typing import Any, Final

import orjson

from berth.apis.responses.request import ResponsesRequest
from berth.apis.responses.response import (
    call_item,
    call_status,
    error_of,
    is_whole,
    item_id,
    logprobs_of,
    message_item,
    reasoning_item,
    response_of,
    status_of,
    text_part,
)
from berth.canonical import Json
from berth.errors import ApiError
from berth.frame_template import FrameTemplate, template_with_ends
from berth.sse import comment, data_of
from berth.sse import frame as sse_frame

_TEXT_KEY: Final = b'"content":"'
_MOST_TEMPLATES: Final = 16  # frames that never look alike are not looked at for ever


class _Text:
    """A message or the reasoning before it, while it is being said."""

    __slots__ = (
        *("after", "before", "delta", "index", "kind", "logprobs", "part_kind", "pieces", "place", "reasons"),
        "summarises",
    )

    def __init__(self, request: ResponsesRequest, index: int, *, reasons: bool) -> None:
        self.index = index
        self.reasons = reasons
        self.pieces: list[bytes] = []  # of the text, as JSON writes it
        self.logprobs: list[Json] = []
        self.summarises = reasons and request.summarises
        place = "summary_index" if self.summarises else "content_index"
        prefix = "rs" if reasons else "msg"
        self.place: Json = {"item_id": item_id(request, prefix, index), "output_index": index, place: 0}
        self.part_kind = "response.reasoning_summary_part" if self.summarises else "response.content_part"
        self.kind = "response.output_text"
        if reasons:
            self.kind = "response.reasoning_summary_text" if self.summarises else "response.reasoning_text"
        head = orjson.dumps({"type": f"{self.kind}.delta", **self.place})[:-1]
        self.before = b"event: " + self.kind.encode() + b".delta\ndata: " + head + b',"delta":"'  # a delta's text
        self.after = b'","sequence_number":' if reasons else b'","logprobs":[],"sequence_number":'
        self.delta = self.before + b"%b" + self.after + b"%d}\n\n"  # ids hold no percent sign

    @property
    def text(self) -> str:
        joined = b"".join(self.pieces)
        try:
            return str(orjson.loads(b'"' + joined + b'"'))
        except orjson.JSONDecodeError:  # an engine wrote what is no JSON; its frames were passed on unread
            return joined.decode(errors="replace")

    def part(self, text: str) -> Json:
        if self.reasons:
            return {"type": "summary_text" if self.summarises else "reasoning_text", "text": text}
        return text_part(text, self.logprobs)

    def item(self, request: ResponsesRequest, status: str) -> Json:
        if self.reasons:
            return reasoning_item(request, self.index, self.text, status)
        return message_item(request, self.index, self.text, status, self.logprobs)


class _Call:
    """A tool call, while its arguments come."""

    def __init__(self, index: int, call_id: str | None, name: str) -> None:
        self.index = index
        self.call_id = call_id
        self.name = name
        self.arguments = ""

    def item(self, request: ResponsesRequest, status: str) -> Json:
        return call_item(request, self.index, self.call_id, self.name, self.arguments, status=status)


class ResponsesStream:
    """`finished` gets the response before the client does."""

    plain = False
    __slots__ = (
        *(
            "_calls",
            "_done_calls",
            "_finish",
            "_finished",
            "_items",
            "_learns",
            "_template",
            "_templates_made",
            "_number",
        ),
        *("_output", "_over", "_request", "_started", "_text", "_usage"),
    )

    def __init__(self, request: ResponsesRequest, finished: Callable[[Json], None]) -> None:
        self._request = request
        self._finished = finished
        self._number = 0  # of the next event
        self._started = False
        self._over = False
        self._items = 0  # that were begun
        self._output: dict[int, Json] = {}  # those that are done
        self._text: _Text | None = None
        self._calls: dict[int, _Call] = {}  # open ones, by the engine's index
        self._done_calls: set[int] = set()
        self._finish: str | None = None
        self._usage: Json | None = None
        self._template: FrameTemplate | None = None  # of the open message's frames
        self._templates_made = 0
        self._learns = not request.body.get("logprobs")  # they differ from frame to frame

    def feed(self, frames: bytes) -> bytes:
        if (shown := self._quick(frames)) is not None:
            return shown
        *whole, _ = [frame + b"\n\n" for frame in frames.split(b"\n\n")]
        return b"".join([self._quick(frame) or self._read(frame) for frame in whole])

    def fail(self, error: ApiError) -> bytes:
        """`response.failed`, behind `response.created` where that is not out yet: clients insist on it."""
        if self._over:
            return b""
        self._over = True
        shown = self._start()
        for item in (self._text, *self._calls.values()):
            if item is not None:
                self._output[item.index] = item.item(self._request, "incomplete")
        response = response_of(self._request, "failed", self._in_order(), usage=self._usage, error=error_of(error))
        self._finished(response)
        return shown + self._event("response.failed", response=response)

    def heartbeat(self, text: str) -> bytes:
        """An event and a comment: Codex counts events when it looks whether a stream is alive, people read comments."""
        if self._over:
            return b""
        begun = self._start()
        return comment(text) + (begun or self._event("response.in_progress", response=self._response("in_progress")))

    def _quick(self, frame: bytes) -> bytes | None:
        """The event of a frame that is like the ones before it."""
        template, text = self._template, self._text
        if template is None or text is None or not template.matches(frame):
            return None
        piece = template.text(frame)
        text.pieces.append(piece)
        number = self._number
        self._number = number + 1
        return text.delta % (piece, number)

    def _read(self, frame: bytes) -> bytes:
        data = data_of(frame)
        if not data or self._over:
            return b""  # a comment
        if data == b"[DONE]":
            return self._end()
        chunk = orjson.loads(data)
        shown = [self._start()]
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if reasoning := delta.get("reasoning"):
                shown.append(self._say(reasoning, [], reasons=True))
            if text := delta.get("content") or delta.get("refusal"):
                shown.append(self._say(text, logprobs_of(choice), reasons=False))
                self._learn(frame, choice)
            shown.extend(self._call(call) for call in delta.get("tool_calls") or ())
            if choice.get("finish_reason"):
                self._finish = choice["finish_reason"]
                shown.append(self._close_all())
        return b"".join(shown)

    def _start(self) -> bytes:
        """The events before all others, once."""
        if self._started:
            return b""
        self._started = True
        response = self._response("in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _say(self, text: str, logprobs: list[Json], *, reasons: bool) -> bytes:
        shown = b""
        if self._text is None or self._text.reasons != reasons:
            shown = self._close_text("completed") + self._close_whole_calls() + self._open_text(reasons=reasons)
        said = self._text
        assert said is not None  # noqa: S101 - it was opened above
        piece = orjson.dumps(text)[1:-1]
        said.pieces.append(piece)
        said.logprobs += logprobs
        number = self._number
        self._number = number + 1
        if logprobs:
            place = b'","logprobs":' + orjson.dumps(logprobs) + b',"sequence_number":%d}\n\n' % number
            return shown + said.before + piece + place
        return shown + said.delta % (piece, number)

    def _learn(self, frame: bytes, choice: Json) -> None:
        """Later frames that say nothing but text look like this one."""
        delta, said = choice["delta"], self._text
        plain = not (delta.get("reasoning") or delta.get("tool_calls") or choice.get("finish_reason"))
        if plain and said is not None and self._learns and self._templates_made < _MOST_TEMPLATES:
            self._templates_made += 1
            self._template = template_with_ends(frame, _TEXT_KEY, said.before, said.after)

    def _open_text(self, *, reasons: bool) -> bytes:
        text = self._text = _Text(self._request, self._next_index(), reasons=reasons)
        item = text.item(self._request, "in_progress") | {"content": []}
        item.pop("encrypted_content", None)
        added = self._event("response.output_item.added", output_index=text.index, item=item)
        return added + self._event(f"{text.part_kind}.added", **text.place, part=text.part(""))

    def _close_text(self, status: str) -> bytes:
        text, self._text, self._template = self._text, None, None
        if text is None:
            return b""
        said = text.text
        logprobs = {} if text.reasons else {"logprobs": text.logprobs}
        done = self._event(f"{text.kind}.done", **text.place, text=said, **logprobs)
        done += self._event(f"{text.part_kind}.done", **text.place, part=text.part(said))
        return done + self._close(text.index, text.item(self._request, status))

    def _call(self, delta: Json) -> bytes:
        place, function = delta["index"], delta.get("function") or {}
        if place in self._done_calls:
            return b""  # only white space can follow whole arguments
        shown = b""
        call = self._calls.get(place)
        if call is None:
            shown = self._close_text("completed") + self._close_whole_calls()
            call = self._calls[place] = _Call(self._next_index(), delta.get("id"), function.get("name") or "")
            item = call.item(self._request, "in_progress")
            shown += self._event("response.output_item.added", output_index=call.index, item=item)
        arguments = function.get("arguments")
        return shown + self._argue(call, arguments) if arguments else shown

    def _argue(self, call: _Call, arguments: str) -> bytes:
        call.arguments += arguments
        origin = self._request.origins.get(call.name)
        if origin is not None and origin.custom:
            return b""  # its text is one argument of many characters, told when it is whole
        item = item_id(self._request, "fc", call.index)
        return self._event(
            "response.function_call_arguments.delta", item_id=item, output_index=call.index, delta=arguments
        )

    def _close_whole_calls(self) -> bytes:
        return b"".join(
            [self._close_call(place) for place, call in tuple(self._calls.items()) if is_whole(call.arguments)]
        )

    def _close_call(self, place: int) -> bytes:
        call = self._calls.pop(place)
        self._done_calls.add(place)
        item = call.item(self._request, call_status(self._finish, whole=is_whole(call.arguments)))
        where = {"item_id": item["id"], "output_index": call.index}
        if item["type"] == "custom_tool_call":
            kind, field, untold = "response.custom_tool_call_input", "input", item["input"]
        else:
            kind, field = "response.function_call_arguments", "arguments"
            untold = item["arguments"].removeprefix(call.arguments)
        shown = self._event(f"{kind}.delta", **where, delta=untold) if untold else b""
        name = {"name": item["name"]} if field == "arguments" else {}
        shown += self._event(f"{kind}.done", **where, **name, **{field: item[field]})
        return shown + self._close(call.index, item)

    def _close(self, index: int, item: Json) -> bytes:
        self._output[index] = item
        return self._event("response.output_item.done", output_index=index, item=item)

    def _close_all(self) -> bytes:
        shown = self._close_text(status_of(self._finish))
        return shown + b"".join([self._close_call(place) for place in tuple(self._calls)])

    def _end(self) -> bytes:
        """The one terminal event. Where it has to be `completed`, the status inside says more."""
        shown = self._start() + self._close_all()
        if not self._output:
            shown += self._open_text(reasons=False) + self._close_text(status_of(self._finish))
        self._over = True
        status = status_of(self._finish)
        response = response_of(self._request, status, self._in_order(), finish=self._finish, usage=self._usage)
        self._finished(response)
        kind = status if self._request.knows_incomplete else "completed"
        return shown + self._event(f"response.{kind}", response=response)

    def _response(self, status: str) -> Json:
        return response_of(self._request, status, self._in_order())

    def _in_order(self) -> list[Json]:
        return [self._output[index] for index in sorted(self._output)]

    def _next_index(self) -> int:
        self._items += 1
        return self._items - 1

    def _event(self, kind: str, **fields: Any) -> bytes:
        number = self._number
        self._number = number + 1
        return sse_frame(orjson.dumps({"type": kind, **fields, "sequence_number": number}), event=kind.encode())

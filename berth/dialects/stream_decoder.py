"""Follows a streamed answer in OpenAI's form, and puts right what an engine does differently.

Nearly all frames of a stream differ in nothing but their text. From the first such frame that was parsed, what stands
before and after its text is kept (`FrameTemplate`); a later frame with the same ends, and no quote between them, has
the same form and is passed on without being parsed. All others are parsed.
"""

from typing import Any, Final

import orjson

from berth.canonical import Failure, InferenceRequest, Operation, Transcript, Usage
from berth.dialects.base import StreamDecoder
from berth.dialects.failures import Judge, client_fault, engine_failure, failure_in
from berth.dialects.logprobs import check_logprobs
from berth.frame_template import FrameTemplate, learn_template
from berth.sse import DONE, data_of
from berth.sse import frame as sse_frame

Json = dict[str, Any]

_TEXTS: Final = ("role", "content", "reasoning", "reasoning_content", "refusal")
_TEXTS_OF_CHOICE: Final = ("finish_reason", "text")
_TEXTS_OF_CALL: Final = ("id",)
_TEXTS_OF_FUNCTION: Final = ("name", "arguments")
# A stream whose frames never look alike (a new id in each) is not looked at for ever.
_MOST_TEMPLATES: Final = 16


class OpenaiStreamDecoder(StreamDecoder):
    """One streamed answer. `choices`: how many must finish; None: as many as were seen, at least one."""

    __slots__ = (
        "_choices",
        "_created",
        "_finish_reason",
        "_finished",
        "_id",
        "_judge",
        "_keep_usage",
        "_model",
        "_object",
        "_one_call",
        "_pieces",
        "_reasoned",
        "_resume",
        "_seen",
        "_template",
        "_templates",
        "_templates_made",
        "_tools",
        "done",
    )

    def __init__(
        self, request: InferenceRequest, model: str, *, choices: int | None, judge: Judge = client_fault
    ) -> None:
        super().__init__()
        self.done = False  # the engine has said [DONE]
        self._model = model
        self._object = "chat.completion.chunk" if request.operation is Operation.CHAT else "text_completion"
        self._keep_usage = request.include_usage
        self._one_call = request.body.get("parallel_tool_calls") is False  # not all engines keep to it
        self._choices = choices
        self._judge = judge
        self._id: str | None = None  # of the first frame, then of all
        self._created: Any = None
        self._templates: dict[int, FrameTemplate] = {}  # choice -> the form of its frames
        self._template: FrameTemplate | None = None  # the last of them
        self._templates_made = 0
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._finish_reason = ""  # of the choice that finished last
        self._tools: dict[int, set[int]] = {}  # choice -> indexes of its tool calls so far
        self._pieces: list[bytes] | None = None  # of the text, as JSON writes it; None: nobody wants to know
        self._reasoned = False
        self._resume = request.resume
        if request.resume is not None:
            self._id, self._created = request.resume.id, request.resume.created

    def keep(self) -> None:
        """From now on `transcript` can tell."""
        self._pieces = []

    def transcript(self) -> Transcript:
        """Of what went through; of nothing without `keep`."""
        pieces = self._pieces or []
        return Transcript(
            id=self._id or "",
            created=self._created if isinstance(self._created, int) else 0,
            text=orjson.loads(b'"' + b"".join(pieces) + b'"'),
            tokens=len(pieces),
            reasoned=self._reasoned,
            called=any(self._tools.values()),
            finish_reason=self._finish_reason,
        )

    def feed(self, chunk: bytes) -> bytes:
        template = self._template
        if template is None or self._splitter.pending or not template.matches(chunk):
            return super().feed(chunk)
        self.frames += 1
        if self._pieces is not None:
            self._pieces.append(template.text(chunk))
        return template.render(chunk)

    def frame(self, frame: bytes) -> bytes | Failure:
        for template in self._templates.values():
            if template.matches(frame):
                if self._pieces is not None:
                    self._pieces.append(template.text(frame))
                return template.render(frame)
        return self._read(frame)

    def end(self) -> Failure | None:
        if self.done or self._all_finished():
            return None
        return engine_failure("the engine's stream ended before the answer was complete")

    def _read(self, frame: bytes) -> bytes | Failure:
        data = data_of(frame)
        if self.done or data == b"":
            return b""
        if data is None:
            return frame  # a comment, e.g. a heartbeat
        if data == b"[DONE]":
            return self._read_done()
        try:
            return self._read_object(frame, orjson.loads(data))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            return engine_failure(f"the engine sent a frame that is not OpenAI's: {exc!r}")

    def _read_object(self, frame: bytes, chunk: Json) -> bytes | Failure:
        if chunk.get("error") or chunk.get("object") == "error":
            return failure_in(chunk, _status_in(chunk), judge=self._judge)
        changed = self._name(chunk)
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            changed |= _count_as_one(usage, self._resume)
            self.usage = usage_in(usage)
            if not self._keep_usage:
                del chunk["usage"]
                changed = True
        choices = chunk.get("choices")
        if not choices:
            return self._written(frame, chunk, changed=changed) if chunk.get("usage") else b""
        for choice in choices:
            if choice.get("finish_reason") == "abort":
                return engine_failure("the engine aborted the request")
            changed |= self._read_choice(choice)
        if self._resume is not None and self._reasoned:
            return engine_failure("the engine took the rest of the answer for reasoning")
        if self._resume is not None and not _adds_something(chunk):
            return b""
        shown = self._written(frame, chunk, changed=changed)
        self._keep_template(choices, frame, shown)
        return shown

    def _keep_template(self, choices: list[Json], frame: bytes, shown: bytes) -> None:
        """Frames with one unfinished choice that say nothing but text look alike."""
        choice = choices[0]
        delta = choice.get("delta") or {}
        plain = len(choices) == 1 and choice.get("finish_reason") is None and not delta.get("tool_calls")
        if plain and (delta.get("content") or choice.get("text")) and self._templates_made < _MOST_TEMPLATES:
            self._templates_made += 1
            template = learn_template(frame, shown)
            if template is not None:
                self._templates[choice.get("index", 0)] = self._template = template

    def _written(self, frame: bytes, chunk: Json, *, changed: bool) -> bytes:
        return sse_frame(orjson.dumps(chunk)) if changed else frame

    def _read_done(self) -> bytes | Failure:
        if not self._all_finished():
            return engine_failure("the engine ended its stream without a finish_reason")
        self.done = True
        self._templates.clear()
        self._template = None
        return DONE

    def _all_finished(self) -> bool:
        if self._choices is None:
            return bool(self._finished) and self._seen <= self._finished
        return len(self._finished) >= self._choices

    def _name(self, chunk: Json) -> bool:
        """One id, one time, one kind of object and the public model name in all frames. True: something was changed."""
        if self._id is None:
            self._id, self._created = str(chunk.get("id", "")), chunk.get("created")
        right = {"id": self._id, "object": self._object, "created": self._created, "model": self._model}
        wrong = {key: value for key, value in right.items() if value and chunk.get(key) != value}
        chunk.update(wrong)
        return bool(wrong)

    def _read_choice(self, choice: Json) -> bool:
        check_types(choice)
        index = choice.get("index", 0)
        self._seen.add(index)
        delta = choice.get("delta")
        changed = False
        self._keep_text((delta.get("content") if isinstance(delta, dict) else None) or choice.get("text"))
        if isinstance(delta, dict):
            changed = double_reasoning(delta)
            self._reasoned |= bool(delta.get("reasoning") or delta.get("reasoning_content"))
            if delta.get("tool_calls"):
                changed |= self._read_tool_calls(self._tools.setdefault(index, set()), delta)
            if self._resume is not None and delta.pop("role", None):
                changed = True  # the client knows who speaks
        if choice.get("finish_reason") is None:
            return changed
        self._finished.add(index)
        self._finish_reason = choice["finish_reason"]
        if choice["finish_reason"] == "stop" and self._tools.get(index):
            choice["finish_reason"] = self._finish_reason = "tool_calls"
            return True
        return changed

    def _keep_text(self, text: Any) -> None:
        if self._pieces is not None and isinstance(text, str) and text:
            self._pieces.append(orjson.dumps(text)[1:-1])

    def _read_tool_calls(self, begun: set[int], delta: Json) -> bool:
        """id, type and name once for each call: clients join the ids of all deltas. True: something was changed."""
        before = orjson.dumps(delta["tool_calls"])
        calls = _joined([_tool_delta(call, begun, place) for place, call in enumerate(delta["tool_calls"])])
        if self._one_call:
            calls = [call for call in calls if call["index"] == min(begun)]
        delta["tool_calls"] = calls
        if not calls:
            del delta["tool_calls"]
            return True
        return orjson.dumps(calls) != before


def check_types(choice: Json) -> None:
    """TypeError where a choice of an answer, or of a frame, is not of OpenAI's types: no client API could write it."""
    says = choice.get("delta") or choice.get("message") or {}
    _check_texts(choice, _TEXTS_OF_CHOICE)
    _check_texts(says, _TEXTS)
    for call in says.get("tool_calls") or ():
        _check_texts(call, _TEXTS_OF_CALL)
        _check_texts(call.get("function") or {}, _TEXTS_OF_FUNCTION)
    check_logprobs(choice.get("logprobs"))


def _check_texts(part: Json, names: tuple[str, ...]) -> None:
    for name in names:
        value = part.get(name)
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{value!r} is no text")


def _adds_something(chunk: Json) -> bool:
    return bool(chunk.get("usage")) or any(
        choice.get("finish_reason") or choice.get("text") or any((choice.get("delta") or {}).values())
        for choice in chunk["choices"]
    )


def _count_as_one(usage: Json, before: Transcript | None) -> bool:
    """What the client had already is in the prompt of the engine that goes on, and belongs to the answer. True:
    something was changed.
    """
    if before is None:
        return False
    usage["prompt_tokens"] = max(0, _count(usage.get("prompt_tokens")) - before.tokens)
    usage["completion_tokens"] = _count(usage.get("completion_tokens")) + before.tokens
    return True


def _joined(calls: list[Json]) -> list[Json]:
    """One entry for each call: some clients read the first of a frame alone, and vLLM begins with two of one call."""
    joined: dict[int, Json] = {}
    for call in calls:
        before = joined.setdefault(call["index"], call)
        if before is not call:
            before["function"]["arguments"] = (before["function"].get("arguments") or "") + (
                call["function"].get("arguments") or ""
            )
    return list(joined.values())


def _tool_delta(call: Json, begun: set[int], place: int) -> Json:
    index = call["index"] if isinstance(call.get("index"), int) else place
    function = {key: value for key, value in (call.get("function") or {}).items() if value is not None}
    if index not in begun:
        begun.add(index)
        return {**call, "index": index, "function": {"arguments": "", **function}}
    function.pop("name", None)
    return {"index": index, "function": function}


def double_reasoning(message: Json) -> bool:
    """Clients disagree on the field's name, so both are there. True: something was changed."""
    text = message.get("reasoning") or message.get("reasoning_content")
    if not text or message.get("reasoning") == message.get("reasoning_content"):
        return False
    message["reasoning"] = message["reasoning_content"] = text
    return True


def usage_in(usage: Json) -> Usage:
    """The tokens of a `usage` object; what is missing or null counts 0."""
    details = usage.get("prompt_tokens_details")
    return Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        cached_tokens=_count(details.get("cached_tokens")) if isinstance(details, dict) else 0,
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def expected_choices(request: InferenceRequest) -> int:
    """How many choices an answer has: n for each prompt."""
    n = request.body.get("n") or 1
    prompt = request.body.get("prompt")
    many = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return n * len(prompt) if many and prompt else n


def _status_in(chunk: Json) -> int:
    """The HTTP status that an error inside a stream would have had."""
    error = chunk.get("error")
    code = error.get("code") if isinstance(error, dict) else chunk.get("code")
    return code if isinstance(code, int) and 400 <= code < 600 else 500

"""Decodes a stream in OpenAI's format, and corrects what an engine does differently.

Nearly all frames of a stream differ only in their text. The first such frame is parsed, and the bytes around its text
become a `FrameTemplate`: a later frame that matches it is passed on without being parsed. All others are parsed.
"""

from typing import Any, Final

import orjson

from berth import json_text
from berth.canonical import CHAT, COMPLETION, Failure, InferenceRequest, Transcript
from berth.dialects.base import StreamDecoder
from berth.dialects.choices import add_both_names, check_types, plausible, read_usage, token_count
from berth.dialects.failures import Judge, engine_failure, failure_in, judge_by_status, unfit_failure
from berth.dialects.tool_calls import ToolCalls
from berth.frame_template import FrameTemplate, learn_template
from berth.sse import DONE, data_of
from berth.sse import frame as sse_frame

Json = dict[str, Any]

_COMPLETE: Final = frozenset({"stop", "tool_calls"})
# Where no frame resembles another (a new id in each), the decoder stops learning.
_MOST_TEMPLATES: Final = 16
_CONTENTS: Final = frozenset({"delta", "text", "message"})  # where choices have what was generated, by their kind


class OpenaiStreamDecoder(StreamDecoder):
    """One streamed response. `choices`: how many must finish; None: as many as began, at least one."""

    __slots__ = (
        "_choices",
        "_content",
        "_created",
        "_finish_reason",
        "_finished",
        "_forced",
        "_hides_tokens",
        "_id",
        "_judge",
        "_keep_usage",
        "_model",
        "_object",
        "_one_call",
        "_pieces",
        "_problem",
        "_reasoned",
        "_resume",
        "_seen",
        "_template",
        "_templates",
        "_templates_made",
        "_tools",
        "done",
    )

    repeats_role = True  # later frames of a choice may have its role too

    def __init__(
        self,
        request: InferenceRequest,
        model: str,
        *,
        choices: int | None,
        judge: Judge = judge_by_status,
    ) -> None:
        super().__init__()
        self.done = False  # [DONE] was received
        self._model = model
        self._object = "chat.completion.chunk" if request.operation is CHAT else "text_completion"
        self._content = "text" if request.operation is COMPLETION else "delta"
        self._keep_usage = request.include_usage
        self._one_call = request.body.get("parallel_tool_calls") is False  # not all engines keep to it
        self._forced = request.body.get("tool_choice") not in (None, "none", "auto")
        self._choices = choices
        self._judge = judge
        self._id: str | None = None  # of the first frame, then of all
        self._created: Any = None
        self._templates: dict[int, FrameTemplate] = {}  # choice -> template of its frames
        self._template: FrameTemplate | None = None  # the last of them
        self._templates_made = 0
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._finish_reason = ""  # of the choice that finished last
        self._tools: dict[int, ToolCalls] = {}  # by choice
        self._pieces: list[bytes] | None = None  # of the text, JSON-escaped; None: not recorded
        self._problem: str | None = None  # of a forced call
        self._reasoned = False
        self._hides_tokens = bool(request.body.get("ignore_eos"))  # tokens after the end often have no text
        self._resume = request.resume
        if request.resume is not None:
            self._id, self._created = request.resume.id, request.resume.created

    def keep(self) -> None:
        """Start recording for `transcript`."""
        self._pieces = []

    def transcript(self) -> Transcript:
        """Of all frames since `keep`; empty without it. A lone surrogate, which no engine gets, and a text that is not
        valid JSON, which frames passed unparsed may contain, are U+FFFD: it may stand for any bytes.
        """
        pieces = self._pieces or []
        try:
            text = json_text.loads(json_text.whole_characters(b'"' + b"".join(pieces) + b'"'))
        except orjson.JSONDecodeError:
            text = "\ufffd"
        return Transcript(
            id=self._id or "",
            created=self._created if isinstance(self._created, int) else 0,
            text=text,
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
        data = data_of(frame)
        if self.done or not data:
            comment = data is None and not self.done  # e.g. a heartbeat
            self.mute += comment
            return frame if comment else b""
        if data == b"[DONE]":
            if not self._all_finished():
                return self.incomplete("the engine ended its stream without a finish_reason")
            self.done = True
            self._templates.clear()
            self._template = None
            return DONE
        try:
            try:
                chunk = orjson.loads(data)
            except orjson.JSONDecodeError:
                chunk, frame = json_text.loads(data), sse_frame(json_text.for_all_readers(data))
            return self._read_chunk(frame, chunk)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            return engine_failure(f"unexpected frame from the engine: {exc!r}")

    def end(self) -> Failure | None:
        if self.done or self._all_finished():
            return None
        return self.incomplete("the engine's stream ended before the response was complete")

    def incomplete(self, message: str) -> Failure:
        """Of a stream that has ended too early."""
        return engine_failure(message)

    def _all_finished(self) -> bool:
        if self._choices is None:
            return bool(self._finished) and self._seen <= self._finished
        return len(self._finished) >= self._choices

    def _read_chunk(self, frame: bytes, chunk: Json) -> bytes | Failure:
        error = chunk.get("error")
        if error or chunk.get("object") == "error":
            code = (error if isinstance(error, dict) else chunk).get("code")
            status = code if isinstance(code, int) and 400 <= code < 600 else 500
            return failure_in(chunk, status, judge=self._judge)
        changed = self._correct_envelope(chunk)
        choices = chunk.get("choices") or []
        for choice in choices:
            if choice.get("finish_reason") == "abort":
                return engine_failure("the engine aborted the request")
            changed |= self._read_choice(choice)
        if self._problem is not None or (self._resume is not None and self._reasoned):
            mixed = "the engine continued with reasoning instead of content"
            return unfit_failure(self._problem) if self._problem is not None else engine_failure(mixed)
        says = any(
            choice.get("finish_reason")
            or choice.get("text")
            or choice.get("logprobs")
            or choice.get("token_ids")
            or any(value for name, value in (choice.get("delta") or {}).items() if name != "role")
            for choice in choices
        )
        if not says:
            if (self._resume is not None or not choices) and not chunk.get("usage"):
                return b""
            self.mute += not self._hides_tokens
        output = sse_frame(json_text.dumps(chunk)) if changed else frame
        if len(choices) == 1 and self._templates_made < _MOST_TEMPLATES:
            # Frames with one unfinished choice that have only text differ only in this text.
            choice, delta = choices[0], choices[0].get("delta") or {}
            plain = choice.get("finish_reason") is None and not delta.get("tool_calls")
            plain &= self.repeats_role or "role" not in delta
            if plain and (delta.get("content") or choice.get("text")):
                self._templates_made += 1
                template = learn_template(frame, output)
                if template is not None:
                    self._templates[choice.get("index", 0)] = self._template = template
        return output

    def _correct_envelope(self, chunk: Json) -> bool:
        """One id, one time, one kind of object and the public model name in all frames; usage as the client requested
        it. True: something was changed.
        """
        if self._id is None:
            self._id, self._created = str(chunk.get("id", "")), chunk.get("created")
        expected = {"id": self._id, "object": self._object, "created": self._created, "model": self._model}
        wrong = {key: value for key, value in expected.items() if value and chunk.get(key) != value}
        chunk.update(wrong)
        usage = chunk.get("usage")
        if not isinstance(usage, dict):
            if usage is not None:
                del chunk["usage"]
            return bool(wrong) or usage is not None
        if self._resume is not None:  # this engine counts in its prompt what the client has already
            known = self._resume.tokens
            usage["prompt_tokens"] = max(0, token_count(usage.get("prompt_tokens")) - known)
            usage["completion_tokens"] = token_count(usage.get("completion_tokens")) + known
        self.usage = read_usage(usage)
        if not self._keep_usage:
            del chunk["usage"]
        elif self.usage.implausible:
            chunk["usage"] = plausible(usage)
        return bool(wrong) or self._resume is not None or not self._keep_usage or self.usage.implausible

    def _read_choice(self, choice: Json) -> bool:
        """True: something was changed."""
        check_types(choice)
        if self._content not in choice and not _CONTENTS.isdisjoint(choice):
            raise KeyError(self._content)  # a frame of another API: its text would be lost
        index = choice.get("index", 0)
        self._seen.add(index)
        delta = choice.get("delta")
        changed = False
        text = (delta.get("content") if isinstance(delta, dict) else None) or choice.get("text")
        if self._pieces is not None and isinstance(text, str) and text:
            self._pieces.append(json_text.dumps(text)[1:-1])
        if isinstance(delta, dict):
            changed = add_both_names(delta)
            self._reasoned |= bool(delta.get("reasoning") or delta.get("reasoning_content"))
            if delta.get("tool_calls"):
                if index not in self._tools:
                    self._tools[index] = ToolCalls(f"{self._id}_{index}", only_first=self._one_call)
                changed |= self._tools[index].correct(delta)
            if self._resume is not None and delta.pop("role", None):
                changed = True  # the client has the role already
        if choice.get("finish_reason") is None:
            return changed
        self._finished.add(index)
        if self._forced and index in self._tools and choice["finish_reason"] in _COMPLETE:
            self._problem = self._tools[index].problem()
        self._finish_reason = choice["finish_reason"]
        if choice["finish_reason"] == "stop" and self._tools.get(index):
            choice["finish_reason"] = self._finish_reason = "tool_calls"
            return True
        return changed

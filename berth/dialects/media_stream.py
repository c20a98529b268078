"""Streams about audio, as OpenAI's events in any case: the text of a recording, or the sound of a text.

There are two forms. vLLM and SGLang tell a recording's text like a chat's: chunks with a delta, a finish_reason after
each part of a long recording, and [DONE]. Other servers send OpenAI's own events, which pass as they are.
"""

from typing import Any, Final

import orjson

from berth.canonical import Failure, InferenceRequest, Json, Transcript, Usage
from berth.dialects.base import StreamDecoder
from berth.dialects.failures import engine_failure, failure_in
from berth.dialects.stream_decoder import OpenaiStreamDecoder
from berth.sse import DONE, data_of
from berth.sse import frame as sse_frame

_EVENTS: Final = ("transcript.", "speech.")
_TEXT_OF: Final = {"transcript.text.delta": "delta", "transcript.text.done": "text", "speech.audio.delta": "audio"}
_LAST: Final = frozenset({"transcript.text.done", "speech.audio.done"})


class MediaStreamDecoder(StreamDecoder):
    """One streamed answer. It is complete with its last event, which chunks get at [DONE] and not before: a
    finish_reason may be that of the recording's first part.
    """

    __slots__ = ("_chunks", "_complete", "_over", "_pieces")

    def __init__(self, request: InferenceRequest, model: str) -> None:
        super().__init__()
        self._chunks = OpenaiStreamDecoder(request, model, choices=None)
        self._pieces: list[str] = []  # of the chunks' text
        self._complete = False  # the last event is out
        self._over = False  # [DONE] is out

    def keep(self) -> None:
        """No other engine can go on in the middle of a recording."""

    def transcript(self) -> Transcript:
        """Of nothing."""
        return Transcript(id="", created=0, text="", tokens=0)

    def frame(self, frame: bytes) -> bytes | Failure:
        data = data_of(frame)
        if data is None:
            return frame  # a comment
        if self._over or data == b"":
            return b""
        if data == b"[DONE]":
            return self._end(frame)
        try:
            return self._read(frame, orjson.loads(data))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            return engine_failure(f"the engine sent a frame that is not OpenAI's: {exc!r}")

    def end(self) -> Failure | None:
        return None if self._complete else engine_failure("the engine's stream ended before the answer was complete")

    def _read(self, frame: bytes, event: Json) -> bytes | Failure:
        kind = event.get("type")
        if kind == "error":
            return failure_in(event, 500)
        if isinstance(kind, str) and kind.startswith(_EVENTS):
            return self._read_event(frame, kind, event)
        shown = self._chunks.frame(frame)
        self.usage = self._chunks.usage
        return shown if isinstance(shown, Failure) else self._delta(shown)

    def _read_event(self, frame: bytes, kind: str, event: Json) -> bytes:
        if (name := _TEXT_OF.get(kind)) and not isinstance(event[name], str):
            raise TypeError(f"{event[name]!r} is no text")
        if kind in _LAST:
            self._complete = True
            self.usage = _usage_in(event.get("usage"))
        return frame

    def _delta(self, shown: bytes) -> bytes:
        """Of a chunk; nothing where it has no text."""
        chunk = orjson.loads(data_of(shown) or b"{}")
        text = "".join((choice.get("delta") or {}).get("content") or "" for choice in chunk.get("choices") or ())
        if not text:
            return b""
        self._pieces.append(text)
        return sse_frame(orjson.dumps({"type": "transcript.text.delta", "delta": text}))

    def _end(self, frame: bytes) -> bytes | Failure:
        if not self._complete:
            shown = self._chunks.frame(frame)
            if isinstance(shown, Failure):
                return shown
        last = b"" if self._complete else sse_frame(orjson.dumps(self._done()))
        self._complete = self._over = True
        return last + DONE

    def _done(self) -> Json:
        event: Json = {"type": "transcript.text.done", "text": "".join(self._pieces)}
        prompt, completion = self.usage.prompt_tokens, self.usage.completion_tokens
        if prompt or completion:
            counts = {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion}
            event["usage"] = {"type": "tokens", **counts}
        return event


def _usage_in(usage: Any) -> Usage:
    """Of OpenAI's last event; nothing where it counts seconds."""
    found = usage if isinstance(usage, dict) else {}
    prompt, completion = found.get("input_tokens"), found.get("output_tokens")
    return Usage(
        prompt_tokens=prompt if isinstance(prompt, int) else 0,
        completion_tokens=completion if isinstance(completion, int) else 0,
    )

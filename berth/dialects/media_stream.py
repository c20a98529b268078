"""Streams of transcriptions and speech, always as OpenAI's events.

Engines send two formats. vLLM and SGLang stream a transcription like a chat: chunks with a delta, a finish_reason after
each part of a long recording, and [DONE]. Other servers send OpenAI's own events, which pass unchanged.
"""

from typing import Final

from berth import json_text
from berth.canonical import Failure, InferenceRequest, Json, Transcript
from berth.dialects.base import StreamDecoder
from berth.dialects.choices import plausible, read_usage
from berth.dialects.failures import Judge, engine_failure, failure_in, judge_by_status
from berth.dialects.stream_decoder import OpenaiStreamDecoder
from berth.sse import DONE, data_of
from berth.sse import frame as sse_frame

_EVENTS: Final = ("transcript.", "speech.")
_TEXT_OF: Final = {"transcript.text.delta": "delta", "transcript.text.done": "text", "speech.audio.delta": "audio"}
_LAST: Final = frozenset({"transcript.text.done", "speech.audio.done"})


class MediaStreamDecoder(StreamDecoder):
    """One streamed response. It is complete with its last event. Chunks get that event at [DONE] and not before, since
    a finish_reason may belong to the first part of the recording.
    """

    __slots__ = ("_chunks", "_complete", "_judge", "_over", "_pieces")

    def __init__(self, request: InferenceRequest, model: str, *, judge: Judge = judge_by_status) -> None:
        super().__init__()
        self._chunks = OpenaiStreamDecoder(request, model, choices=None, judge=judge)
        self._judge = judge
        self._pieces: list[str] = []  # of the chunks' text
        self._complete = False  # the last event was sent
        self._over = False  # [DONE] was sent

    def keep(self) -> None:
        """No other engine can continue in the middle of a recording."""

    def transcript(self) -> Transcript:
        """Always empty."""
        return Transcript(id="", created=0, text="", tokens=0)

    def frame(self, frame: bytes) -> bytes | Failure:
        data = data_of(frame)
        if self._over or not data:
            self.mute += data is None
            return frame if data is None else b""  # a comment
        if data == b"[DONE]":
            self._over = True
            return DONE if self._complete else self._convert(frame)
        try:
            event = json_text.loads(data)
            kind = event.get("type")
            if kind == "error":
                return failure_in(event, 500, judge=self._judge)
            if isinstance(kind, str) and kind.startswith(_EVENTS):
                self._read_event(kind, event)
                return sse_frame(json_text.dumps(event)) if self.usage.implausible else frame
            return self._convert(frame)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            return engine_failure(f"unexpected frame from the engine: {exc!r}")

    def end(self) -> Failure | None:
        return None if self._complete else engine_failure("the engine's stream ended before the response was complete")

    def _read_event(self, kind: str, event: Json) -> None:
        if (name := _TEXT_OF.get(kind)) and not isinstance(event[name], str):
            raise TypeError(f"expected a string, got {event[name]!r}")
        if kind in _LAST:
            self._complete = True
            usage = event.get("usage")  # of a recording, some servers count seconds instead of tokens
            counts = usage if isinstance(usage, dict) else {}
            self.usage = read_usage(counts, "input_tokens", "output_tokens")
            if self.usage.implausible:
                event["usage"] = plausible(counts)

    def _convert(self, frame: bytes) -> bytes | Failure:
        """The delta event of a chunk, b"" where it has no text; for [DONE] the done event and [DONE]."""
        decoded = self._chunks.frame(frame)
        self.usage = self._chunks.usage
        if isinstance(decoded, Failure):
            return decoded
        if not self._chunks.done:
            chunk = json_text.loads(data_of(decoded) or b"{}")
            text = "".join((choice.get("delta") or {}).get("content") or "" for choice in chunk.get("choices") or ())
            self._pieces.append(text)
            return sse_frame(json_text.dumps({"type": "transcript.text.delta", "delta": text})) if text else b""
        self._complete = True
        event: Json = {"type": "transcript.text.done", "text": "".join(self._pieces)}
        prompt, completion = self.usage.prompt_tokens, self.usage.completion_tokens
        if prompt or completion:
            counts = {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion}
            event["usage"] = {"type": "tokens", **counts}
        return sse_frame(json_text.dumps(event)) + DONE

"""Streams of attached servers: OpenAI's frames from what resembles them, and the request's promises kept."""

from berth import json_text
from berth.canonical import Failure, InferenceRequest
from berth.dialects.attached.completion_logprobs import as_lists
from berth.dialects.attached.promises import Promises
from berth.dialects.choices import read_usage, token_count
from berth.dialects.failures import Judge
from berth.dialects.stream_decoder import Json, OpenaiStreamDecoder
from berth.sse import DONE
from berth.sse import frame as sse_frame


class AttachedStreamDecoder(OpenaiStreamDecoder):
    """Each frame has one kind of content: choices, or usage. What says nothing is left out."""

    __slots__ = ("_continuous", "_names", "_offsets", "_promises", "_usage_frame")

    repeats_role = False

    def __init__(
        self, request: InferenceRequest, model: str, *, choices: int | None, judge: Judge, promises: Promises | None
    ) -> None:
        super().__init__(request, model, choices=choices, judge=judge)
        self._promises = promises
        self._names: dict[int, list[str]] = {}  # choice -> the functions that it calls
        self._offsets: dict[int, int] = {}  # choice -> characters of its text so far, where it has log probabilities
        self._usage_frame: Json | None = None  # held until the last choice has ended
        options = request.body.get("stream_options") or {}
        self._continuous = request.include_usage and bool(options.get("continuous_usage_stats"))

    def frame(self, frame: bytes) -> bytes | Failure:
        decoded = super().frame(frame)
        if isinstance(decoded, Failure) or self._usage_frame is None:
            return decoded
        last = decoded == DONE
        if not last and (not self._all_finished() or (self._choices or 1) > 1):
            return decoded
        usage = sse_frame(json_text.dumps(self._usage_frame)) if self._keep_usage else b""
        self._usage_frame = None
        return usage + DONE if last else decoded + usage

    def incomplete(self, message: str) -> Failure:
        """A server that ignores `n` has not failed: all choices that it began are complete."""
        if self._promises is not None and self._finished and self._seen == self._finished:
            return self._promises.too_few(len(self._finished))
        return super().incomplete(message)

    def _read_chunk(self, frame: bytes, chunk: Json) -> bytes | Failure:
        if self._promises is not None and (broken := self._promises.broken_by_frame(chunk, self._names)):
            return broken
        return super()._read_chunk(frame, chunk)

    def _correct_envelope(self, chunk: Json) -> bool:
        tidied = self._tidy(chunk)
        corrected = super()._correct_envelope(chunk)
        usage = chunk.get("usage")
        if isinstance(usage, dict) and not self._continuous:
            # It comes once, at the end of the stream. A server that sends it for each choice counts them apart.
            before = (self._usage_frame or {}).get("usage")
            if before and (self._choices or 1) > 1:
                tokens = token_count(before.get("completion_tokens")) + token_count(usage.get("completion_tokens"))
                total = token_count(usage.get("prompt_tokens")) + tokens
                usage = {**usage, "completion_tokens": tokens, "total_tokens": total}
                self.usage = read_usage(usage)
            self._usage_frame = {**chunk, "choices": [], "usage": usage}
            del chunk["usage"]
        return corrected or tidied

    def _tidy(self, chunk: Json) -> bool:
        """True: something was changed."""
        choices: list[Json] = chunk.get("choices") or []
        changed = "choices" not in chunk
        for choice in choices:
            if "finish_reason" not in choice or "index" not in choice:
                choice |= {"index": choice.get("index", 0), "finish_reason": choice.get("finish_reason")}
                changed = True
            if choice.get("logprobs") and self._object == "text_completion":
                offset = self._offsets.get(choice["index"], 0)
                self._offsets[choice["index"]] = offset + len(choice.get("text") or "")
                changed |= as_lists(choice, offset)
            if choice["index"] in self._seen and (choice.get("delta") or {}).pop("role", None):
                changed = True
        saying = [choice for choice in choices if self._says_something(choice)]
        if changed or len(saying) < len(choices):
            chunk["choices"] = saying
            changed = True
        return changed

    def _says_something(self, choice: Json) -> bool:
        """The first frame of a choice does, whatever it has; none does after its last."""
        if choice["index"] not in self._seen:
            return True
        delta = choice.get("delta") or {}
        content = choice.get("finish_reason") or choice.get("text") or any(delta.values())
        return bool(content) and choice["index"] not in self._finished

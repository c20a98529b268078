"""Ollama's streams: lines of JSON, each of which becomes one of OpenAI's frames or several."""

import secrets
import time

from berth import json_text
from berth.canonical import Failure, InferenceRequest, Json, Operation
from berth.dialects.attached.promises import Promises
from berth.dialects.attached.stream_decoder import AttachedStreamDecoder
from berth.dialects.choices import token_count
from berth.dialects.failures import Judge, engine_failure
from berth.sse import DONE, FrameSplitter, frame


class LineSplitter(FrameSplitter):
    """Splits into lines; empty ones are left out."""

    __slots__ = ()

    def feed(self, chunk: bytes) -> list[bytes]:
        if b"\n" not in chunk:
            self.pending += chunk
            return []
        *complete, rest = (bytes(self.pending) + chunk).split(b"\n")
        self.pending = bytearray(rest)
        return [line for line in complete if line.strip()]


class OllamaStreamDecoder(AttachedStreamDecoder):
    __slots__ = ("_calls", "_chat", "_head")

    def __init__(
        self, request: InferenceRequest, model: str, *, choices: int | None, judge: Judge, promises: Promises | None
    ) -> None:
        super().__init__(request, model, choices=choices, judge=judge, promises=promises)
        self._splitter = LineSplitter()
        self._chat = request.operation is Operation.CHAT
        self._calls = 0
        made = f"{'chatcmpl' if self._chat else 'cmpl'}-{secrets.token_hex(12)}"
        self._head: Json = {"id": made, "created": int(time.time()), "model": model, "object": self._object}

    def frame(self, line: bytes) -> bytes | Failure:
        try:
            frames = self._frames(json_text.read_back(line))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            return engine_failure(f"unexpected line from the engine: {exc!r}")
        output = b""
        for one in frames:
            decoded = super().frame(one)
            if isinstance(decoded, Failure):
                return decoded
            output += decoded
        return output

    def _frames(self, document: Json) -> list[bytes]:
        if document.get("error"):
            return [frame(json_text.dumps(document))]
        choice = openai_choice(document, chat=self._chat, first_call=self._calls)
        self._calls += len((choice.get("delta") or {}).get("tool_calls") or ())
        if document.get("done") is not True:
            return [self._chunk([choice])]
        if choice["finish_reason"] == "stop" and self._calls:
            choice["finish_reason"] = "tool_calls"
        return [self._chunk([choice]), self._chunk([], usage=openai_usage(document)), DONE]

    def _chunk(self, choices: list[Json], **fields: Json) -> bytes:
        return frame(json_text.dumps({**self._head, "choices": choices, **fields}))


def openai_choice(document: Json, *, chat: bool, first_call: int) -> Json:
    """Of a line or a whole response. `first_call`: the number of its first tool call."""
    reason = (document.get("done_reason") or "stop") if document.get("done") else None
    choice: Json = {"index": 0, "finish_reason": "length" if reason == "length" else reason and "stop"}
    if not chat:
        return {**choice, "text": document["response"] or ""}
    message = document["message"]
    delta: Json = {"content": message.get("content") or ""}
    if message.get("thinking"):
        delta["reasoning_content"] = message["thinking"]
    if calls := message.get("tool_calls"):
        delta["tool_calls"] = [
            {
                "index": number,
                "id": call.get("id") or f"call_{secrets.token_hex(12)}",
                "type": "function",
                "function": {
                    "name": call["function"]["name"],
                    "arguments": json_text.dumps(call["function"].get("arguments") or {}).decode(),
                },
            }
            for number, call in enumerate(calls, first_call)
        ]
    return {**choice, "delta": delta}


def openai_usage(document: Json) -> Json:
    prompt, completion = token_count(document.get("prompt_eval_count")), token_count(document.get("eval_count"))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

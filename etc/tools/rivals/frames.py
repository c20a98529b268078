"""What the benchmark's upstream says, prepared: bytes that look like vLLM's.

Each token has the text ` tok...`, so that it can be counted in whatever a router makes of it.
"""

import json
from dataclasses import dataclass
from re import compile as pattern
from typing import Any, Final, Self

MODEL: Final = "bench"
TOKEN: Final = b" tok"
ANSWER_BYTES: Final = 300

_PACE: Final = pattern(rb"tokens=(\d+) first_ms=(\d+) next_ms=(\d+)")
_HEAD: Final = b"HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 12:00:00 GMT\r\nserver: uvicorn\r\n"
_IDENTITY: Final = {"id": "chatcmpl-976ea21fb6b97c56", "object": "chat.completion.chunk", "created": 1795226891}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a stream goes. A client writes it into its message, and the upstream reads it there."""

    tokens: int
    first_ms: int  # from the request to the first token
    next_ms: int  # from each token to the next

    def __str__(self) -> str:
        return f"tokens={self.tokens} first_ms={self.first_ms} next_ms={self.next_ms}"

    @classmethod
    def in_request(cls, body: bytes) -> Self:
        found = _PACE.search(body)
        tokens, first_ms, next_ms = map(int, found.groups()) if found else (8, 0, 0)
        return cls(tokens=tokens, first_ms=first_ms, next_ms=next_ms)

    def due_s(self, token: int) -> float:
        """When that token goes out, after the request."""
        return (self.first_ms + token * self.next_ms) / 1000

    @property
    def whole_s(self) -> float:
        return self.due_s(self.tokens - 1)


def document(value: Any) -> bytes:
    """A whole answer, its head included."""
    body = _json(value)
    return _HEAD + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _chunk(data: bytes) -> bytes:
    frame = b"data: %b\n\n" % data
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def _frame(delta: dict[str, str], finish_reason: str | None, **more: None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, **more}
    return _chunk(_json({**_IDENTITY, "model": MODEL, "choices": [choice]}))


def _answer(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        **_IDENTITY,
        "object": "chat.completion",
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "total_tokens": 20, "completion_tokens": 8},
    }


def _short_answer() -> bytes:
    """Its body has ANSWER_BYTES."""
    room = ANSWER_BYTES - len(_json(_answer("")))
    return document(_answer(" tok".ljust(room, ".")))


SHORT_ANSWER: Final = _short_answer()
START: Final = _HEAD + b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
ROLE: Final = _frame({"role": "assistant", "content": ""}, None)
TOKENS: Final = tuple(_frame({"content": f" tok{'abcdefgh'[: 1 + i % 7]}"}, None, token_ids=None) for i in range(64))
FINISH: Final = _frame({}, "stop", stop_reason=None)
USAGE: Final = _chunk(
    _json(
        {
            **_IDENTITY,
            "model": MODEL,
            "choices": [],
            "usage": {"prompt_tokens": 12, "total_tokens": 212, "completion_tokens": 200},
        }
    )
)
DONE: Final = _chunk(b"[DONE]")
END: Final = b"0\r\n\r\n"
MODELS: Final = document({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
OTHER: Final = document({"status": "ok", "model_path": MODEL, "is_generation": True})

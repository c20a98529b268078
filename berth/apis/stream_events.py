"""How the streams of each API end, and what a client that waits gets meanwhile.

The encoders, docs/apis.md and the tests share this table. A stream ends with exactly one of its last events, `complete`
or `failed`; clients must be able to distinguish the two, and both from a connection that broke.
"""

from dataclasses import dataclass
from typing import Final

from berth import json_text

HEARTBEAT_S: Final = 5.0  # a client whose stream has begun never gets nothing for longer
_DONE: Final = "[DONE]"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvents:
    """Of one API. An event is named by its `type`; where the API has no types, by a key that no other event has, and
    whose value is neither null nor false.
    """

    name: str  # for people
    paths: tuple[str, ...]
    typed: bool = False
    complete: tuple[str, ...]  # one of them is the last event of a complete stream
    failed: str  # the last event of any other stream
    waiting: str  # what a client gets while there is nothing to send, in words

    def last(self, data: bytes) -> str | None:
        """Which last event this is, by its JSON or [DONE]; None for any other event."""
        if data == _DONE.encode():
            return _DONE if _DONE in self.complete else None
        event = json_text.loads(data)
        names = [event.get("type")] if self.typed else [key for key in event if event[key] not in (None, False)]
        return next((name for name in (*self.complete, self.failed) if name in names), None)


_COMMENT: Final = "a comment"

CHAT: Final = StreamEvents(
    name="OpenAI chat and completions",
    paths=("/v1/chat/completions", "/v1/completions"),
    complete=(_DONE,),
    failed="error",
    waiting=_COMMENT,
)
MEDIA: Final = StreamEvents(
    name="OpenAI transcriptions, translations and speech",
    paths=("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech"),
    complete=(_DONE,),
    failed="error",
    waiting=_COMMENT,
)
RESPONSES: Final = StreamEvents(
    name="OpenAI Responses",
    paths=("/v1/responses",),
    typed=True,
    complete=("response.completed", "response.incomplete"),
    failed="response.failed",
    waiting="a comment and `response.in_progress`",
)
ANTHROPIC: Final = StreamEvents(
    name="Anthropic",
    paths=("/v1/messages",),
    typed=True,
    complete=("message_stop",),
    failed="error",
    waiting="a comment and `ping`",
)
OLLAMA: Final = StreamEvents(
    name="Ollama",
    paths=("/api/chat", "/api/generate"),
    complete=("done",),
    failed="error",
    waiting="a line with an empty text: its clients know no comments",
)
TGI: Final = StreamEvents(
    name="Text Generation Inference",
    paths=("/generate_stream", "/generate", "/"),
    complete=("generated_text",),
    failed="error",
    waiting=_COMMENT,
)
STREAMS: Final = (CHAT, MEDIA, RESPONSES, ANTHROPIC, OLLAMA, TGI)


def table() -> str:
    """The Markdown table of docs/apis.md."""
    rows = ["| streams of | end with | or, if they fail, with | while there is nothing to send |", "|---|---|---|---|"]
    for stream in STREAMS:
        complete = " or ".join(f"`{name}`" for name in stream.complete)
        rows.append(f"| {stream.name} | {complete} | `{stream.failed}` | {stream.waiting} |")
    return "\n".join(rows) + "\n"

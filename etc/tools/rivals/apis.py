"""The client APIs in which streams are asked for, and how their ends are known."""

from dataclasses import dataclass
from typing import Any, Final

from etc.tools.rivals.frames import MODEL, TOKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    name: str
    path: str
    end: bytes  # in what ends a whole stream, and in nothing before
    mark: bytes = TOKEN  # in each token, once
    ollama: bool = False

    def body(self, content: str, tokens: int, *, stream: bool) -> dict[str, Any]:
        messages = [{"role": "user", "content": content}]
        if self.path == "/v1/responses":
            return {
                "model": MODEL,
                "input": content,
                "max_output_tokens": max(tokens, 16),
                "stream": stream,
                "store": False,
            }
        if self.ollama:
            return {"model": MODEL, "messages": messages, "options": {"num_predict": tokens}, "stream": stream}
        return {"model": MODEL, "messages": messages, "max_tokens": tokens, "stream": stream}


CHAT: Final = Api(name="chat", path="/v1/chat/completions", end=b"[DONE]")
APIS: Final = {
    api.name: api
    for api in (
        CHAT,
        Api(name="anthropic", path="/v1/messages", end=b"event: message_stop"),
        Api(name="ollama", path="/api/chat", end=b'"done":true', ollama=True),
        # its last events say the whole text again
        Api(name="responses", path="/v1/responses", end=b"event: response.completed", mark=b'"delta":"' + TOKEN),
    )
}

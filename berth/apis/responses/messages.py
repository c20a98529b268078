"""A conversation of Responses items as the messages of a chat."""

from collections.abc import Iterable
from typing import Any

from berth.apis.responses.tools import chat_name, custom_arguments
from berth.canonical import Json

_SYSTEM = ("system", "developer")


def messages_of(instructions: str | None, items: Iterable[Json]) -> list[Json]:
    """The messages. All that stands at the beginning as instructions makes one system message, because many models'
    templates take no more; `developer` becomes `system`, which every template knows.
    """
    turns = _Turns()
    if instructions:
        turns.instruct(instructions)
    for item in items:
        turns.add(item)
    return turns.messages


class _Turns:
    """Several items make one message of the assistant: its reasoning, its text, its calls."""

    def __init__(self) -> None:
        self.messages: list[Json] = []
        self._reasoning = ""  # of the assistant's message that comes next
        self._answers = False  # the last message is the assistant's, and may get more

    def add(self, item: Json) -> None:
        match item["type"]:
            case "message" if item["role"] == "assistant":
                self._say("".join(part.get("text") or part.get("refusal") or "" for part in item["content"]))
            case "message":
                self._hear(item["role"], item["content"])
            case "function_call":
                self._call(item, item["arguments"] or "{}")
            case "custom_tool_call":
                self._call(item, custom_arguments(item["input"]))
            case "reasoning":
                self._answers = False
                self._reasoning += "".join(part["text"] for part in item["content"] or item["summary"])
            case _:  # the output of a function or a custom tool
                output = item["output"]
                content = output if isinstance(output, str) else _content(output)
                self._push({"role": "tool", "tool_call_id": item["call_id"], "content": content})

    def instruct(self, text: str) -> None:
        if len(self.messages) == 1 and self.messages[0]["role"] == "system":
            text = f"{self.messages.pop()['content']}\n\n{text}"
        self._push({"role": "system", "content": text})

    def _hear(self, role: str, content: list[Json]) -> None:
        if role in _SYSTEM:
            self.instruct("\n\n".join(part["text"] for part in content))
        else:
            self._push({"role": role, "content": _content(content)})

    def _say(self, text: str) -> None:
        if self._answers and self.messages[-1]["content"] is None:
            self.messages[-1]["content"] = text
        else:
            self._answer({"content": text})

    def _call(self, item: Json, arguments: str) -> None:
        if not self._answers:
            self._answer({"content": None})
        function = {"name": chat_name(item["name"], item.get("namespace")), "arguments": arguments}
        call = {"id": item["call_id"], "type": "function", "function": function}
        self.messages[-1].setdefault("tool_calls", []).append(call)

    def _answer(self, says: Json) -> None:
        reasoning = {"reasoning": self._reasoning} if self._reasoning else {}
        self._push({"role": "assistant", **says, **reasoning})
        self._answers = True

    def _push(self, message: Json) -> None:
        self.messages.append(message)
        self._reasoning = ""
        self._answers = False


def _content(parts: list[Json]) -> Any:
    """A text where there is but one; else the parts."""
    if all(part["type"] in ("input_text", "output_text") for part in parts) and len(parts) < 2:
        return parts[0]["text"] if parts else ""
    return [_part(part) for part in parts]


def _part(part: Json) -> Json:
    match part["type"]:
        case "input_image":
            image = {"url": part["image_url"]}
            if part["detail"] in ("low", "high"):
                image["detail"] = part["detail"]
            return {"type": "image_url", "image_url": image}
        case "input_audio":
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        case _:
            return {"type": "text", "text": part["text"]}

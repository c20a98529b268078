"""A conversation of Responses items as the messages of a chat."""

from collections.abc import Iterable
from typing import Any

from berth import json_text
from berth.apis.responses.client_tools import CALLS, OUTPUTS, TOOLS
from berth.apis.responses.tools import chat_name, custom_arguments
from berth.apis.responses.typed_items import SERVER_CALLS, server_arguments, server_call, server_result
from berth.canonical import Json

_SYSTEM = ("system", "developer")


def messages_of(instructions: str | None, items: Iterable[Json]) -> list[Json]:
    """All leading instructions make one system message, because the templates of many models accept no more.
    `developer` becomes `system`, which every template knows.
    """
    builder = _MessageBuilder()
    if instructions:
        builder.add_system(instructions)
    for item in items:
        builder.add(item)
    return builder.finished()


class _MessageBuilder:
    """Several items make one assistant message: its reasoning, its text, its calls."""

    def __init__(self) -> None:
        self.messages: list[Json] = []
        self._instructions: list[str] = []  # the texts of the leading system message
        self._reasoning: list[str] = []  # of the next assistant message
        self._extends_last = False  # the last message is the assistant's, and more items may be added to it

    def add(self, item: Json) -> None:
        match item["type"]:
            case "message" if item["role"] == "assistant":
                text = "".join(part.get("text") or part.get("refusal") or "" for part in item["content"])
                if self._extends_last and self.messages[-1]["content"] is None:
                    self.messages[-1]["content"] = text
                else:
                    self._push_assistant(text)
            case "message" if item["role"] in _SYSTEM:
                self.add_system("\n\n".join(part["text"] for part in item["content"]))
            case "message":
                self._push({"role": item["role"], "content": _content(item["content"])})
            case "function_call":
                self._add_call(item, item["arguments"] or "{}")
            case "custom_tool_call":
                self._add_call(item, custom_arguments(item["input"]))
            case "reasoning":
                self._extends_last = False
                self._reasoning += [part["text"] for part in item["content"] or item["summary"]]
            case "function_call_output" | "custom_tool_call_output":
                output = item["output"]
                content = output if isinstance(output, str) else _content(output)
                self._push({"role": "tool", "tool_call_id": item["call_id"], "content": content})
            case _:
                self._add_typed(item)

    def add_system(self, text: str) -> None:
        if not self.messages or (self._instructions and len(self.messages) == 1):
            self._instructions.append(text)
            self.messages.clear()
        self._push({"role": "system", "content": text})

    def finished(self) -> list[Json]:
        if self._instructions:
            self.messages[0]["content"] = "\n\n".join(self._instructions)
        return self.messages

    def _add_call(self, item: Json, arguments: str) -> None:
        if not self._extends_last:
            self._push_assistant(None)
        function = {"name": chat_name(item["name"], item.get("namespace")), "arguments": arguments}
        call = {"id": item["call_id"], "type": "function", "function": function}
        self.messages[-1].setdefault("tool_calls", []).append(call)

    def _add_typed(self, item: Json) -> None:
        """A call or an output of a tool with a type of its own. Other items say nothing to the model."""
        kind = item["type"]
        if kind in CALLS:
            arguments = TOOLS[CALLS[kind]].arguments(item)
            text = arguments if isinstance(arguments, str) else json_text.text_of(arguments)
            self._add_call({"name": CALLS[kind], "call_id": item["call_id"]}, text)
        elif kind in OUTPUTS and item["call_id"]:
            content = TOOLS[OUTPUTS[kind]].result(item)
            self._push({"role": "tool", "tool_call_id": item["call_id"], "content": content})
        elif kind in SERVER_CALLS:
            call_id = item.get("call_id") or item.get("id") or f"call_{len(self.messages)}"
            if kind != "program_output":
                self._add_call({**server_call(item), "call_id": call_id}, server_arguments(item))
            if kind != "program":
                self._push({"role": "tool", "tool_call_id": call_id, "content": server_result(item)})

    def _push_assistant(self, text: str | None) -> None:
        reasoning = "".join(self._reasoning)
        self._push({"role": "assistant", "content": text, **({"reasoning": reasoning} if reasoning else {})})
        self._extends_last = True

    def _push(self, message: Json) -> None:
        self.messages.append(message)
        self._reasoning = []
        self._extends_last = False


def _content(parts: list[Json]) -> Any:
    """A string for a single text, else the parts of a chat."""
    if all(part["type"] in ("input_text", "output_text") for part in parts) and len(parts) < 2:
        return parts[0]["text"] if parts else ""
    content: list[Json] = []
    for part in parts:
        match part["type"]:
            case "input_image":
                image = {"url": part["image_url"]}
                if part["detail"] in ("low", "high"):
                    image["detail"] = part["detail"]
                content.append({"type": "image_url", "image_url": image})
            case "input_audio":
                content.append({"type": "input_audio", "input_audio": part["input_audio"]})
            case _:
                content.append({"type": "text", "text": part["text"]})
    return content

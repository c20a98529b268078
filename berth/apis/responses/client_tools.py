"""Tools with a type of their own that the client runs: shells, patches, the search for tools.

An engine gets a function for each. Its calls become items of the tool's own type again; a call whose arguments do not
fit that type stays a function call, as the model wrote it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final, final

import orjson

from berth import json_text
from berth.apis.tool_arguments import arguments_text
from berth.canonical import Json

_TEXT: Final = {"type": "string"}
_TEXTS: Final = {"type": "array", "items": _TEXT}
_COUNT: Final = {"type": "integer"}
_OPERATIONS: Final = ("create_file", "update_file", "delete_file")


class ClientTool(ABC):
    description: ClassVar[str]
    properties: ClassVar[Json]
    required: ClassVar[tuple[str, ...]]
    prefix: ClassVar[str]  # of the ids of its calls
    empty: ClassVar[Json]  # the fields of a call that has begun

    @property
    def parameters(self) -> Json:
        return {"type": "object", "properties": self.properties, "required": list(self.required)}

    def is_hosted(self, tool: Json) -> bool:
        """OpenAI's server would run it, not the client."""
        environment = tool.get("environment")
        return isinstance(environment, dict) and environment.get("type") != "local"

    @final
    def call(self, arguments: str) -> Json | None:
        """The fields of a call's item; None where the arguments do not fit its type."""
        text = arguments_text(arguments)
        return None if text is None else self.fields(json_text.loads(text), text)

    @abstractmethod
    def fields(self, arguments: Json, text: str) -> Json | None:
        """As `call`; `text` is what the arguments were read from."""

    def arguments(self, item: Json) -> Any:
        """Of an earlier call."""
        return {name: value for name, value in item["action"].items() if name != "type" and value not in (None, {})}

    @abstractmethod
    def result(self, item: Json) -> str:
        """The text of an output."""


class _LocalShell(ClientTool):
    description = "Runs a command on the user's computer and returns its output."
    properties: ClassVar[Json] = {"command": _TEXTS, "working_directory": _TEXT, "timeout_ms": _COUNT}
    required = ("command",)
    prefix = "lsh"
    empty: ClassVar[Json] = {"action": {"type": "exec", "command": [], "env": {}}}

    def fields(self, arguments: Json, text: str) -> Json | None:
        if not _are_texts(arguments.get("command")):
            return None
        return {"action": {"env": {}, **arguments, "type": "exec"}}

    def result(self, item: Json) -> str:
        return str(item["output"])


class _Shell(ClientTool):
    description = "Runs shell commands on the user's computer, one after the other, and returns their output."
    properties: ClassVar[Json] = {"commands": _TEXTS, "timeout_ms": _COUNT, "max_output_length": _COUNT}
    required = ("commands",)
    prefix = "sh"
    empty: ClassVar[Json] = {
        "action": {"commands": [], "timeout_ms": None, "max_output_length": None},
        "environment": None,
    }

    def fields(self, arguments: Json, text: str) -> Json | None:
        if not _are_texts(arguments.get("commands")):
            return None
        action = {"timeout_ms": None, "max_output_length": None, **arguments}
        return {"action": action, "environment": {"type": "local"}}

    def result(self, item: Json) -> str:
        return json_text.dumps(item["output"]).decode()


class _ApplyPatch(ClientTool):
    description = (
        "Creates, updates or deletes one file. Each line of the diff begins with '+' (a new line), '-' (a line to "
        "remove) or a space (context that stays); '@@ text' goes to the line with that text. A new file has only lines "
        "with '+'."
    )
    properties: ClassVar[Json] = {"type": {"type": "string", "enum": list(_OPERATIONS)}, "path": _TEXT, "diff": _TEXT}
    required = ("type", "path")
    prefix = "apc"
    empty: ClassVar[Json] = {"operation": {"type": "update_file", "path": "", "diff": ""}}

    def fields(self, arguments: Json, text: str) -> Json | None:
        kind, path, diff = arguments.get("type"), arguments.get("path"), arguments.get("diff")
        if kind not in _OPERATIONS or not isinstance(path, str):
            return None
        if kind == "delete_file":
            return {"operation": {"type": kind, "path": path}}
        return {"operation": {"type": kind, "path": path, "diff": diff}} if isinstance(diff, str) else None

    def arguments(self, item: Json) -> Any:
        return item["operation"]

    def result(self, item: Json) -> str:
        return "\n".join(filter(None, (str(item.get("status") or ""), item.get("output"))))


class _ToolSearch(ClientTool):
    description = "Searches for further tools. Those that it finds can be called afterwards."
    properties: ClassVar[Json] = {"query": _TEXT}
    required = ("query",)
    prefix = "tsc"
    empty: ClassVar[Json] = {"execution": "client", "arguments": {}}

    def is_hosted(self, tool: Json) -> bool:
        """Without the search, all tools behind it are sent to the model."""
        return tool.get("execution") != "client"

    def fields(self, arguments: Json, text: str) -> Json | None:
        return {"execution": "client", "arguments": orjson.Fragment(text)}

    def arguments(self, item: Json) -> Any:
        return item["arguments"]

    def result(self, item: Json) -> str:
        """The names of the tools that a search has found: their definitions are among the tools of the chat."""
        names = []
        for tool in item["tools"]:
            inner = tool["tools"] if tool["type"] == "namespace" else [tool]
            prefix = f"{tool['name']}__" if tool["type"] == "namespace" else ""
            names += [f"{prefix}{one.get('name') or one['type']}" for one in inner]
        return json_text.dumps({"tools": names}).decode()


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


TOOLS: Final[Mapping[str, ClientTool]] = {
    "local_shell": _LocalShell(),
    "shell": _Shell(),
    "apply_patch": _ApplyPatch(),
    "tool_search": _ToolSearch(),
}
CALLS: Final[Mapping[str, str]] = {f"{name}_call": name for name in TOOLS}
OUTPUTS: Final[Mapping[str, str]] = {
    "local_shell_call_output": "local_shell",
    "shell_call_output": "shell",
    "apply_patch_call_output": "apply_patch",
    "tool_search_output": "tool_search",
}

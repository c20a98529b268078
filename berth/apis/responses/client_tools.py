"""Tools with a type of their own that the client runs: shells, patches, the search for tools.

An engine gets a function for each. Its calls become items of the tool's own type again; a call whose arguments do not
fit that type stays a function call, as the model wrote it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from berth import json_text
from berth.apis.tool_arguments import arguments_text
from berth.canonical import Json

_TEXT: Final = {"type": "string"}
_TEXTS: Final = {"type": "array", "items": _TEXT}
_COUNT: Final = {"type": "integer"}
_OPERATIONS: Final = ("create_file", "update_file", "delete_file")


def _schema(required: tuple[str, ...], **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTool:
    description: str
    parameters: Json
    prefix: str  # of the ids of its calls
    empty: Json  # the fields of a call that has begun
    fields: Callable[[Json], Json | None]  # of a call, from its arguments; None: they do not fit
    arguments: Callable[[Json], Any]  # of an earlier call
    result: Callable[[Json], str]  # the text of an output


def call_fields(kind: str, arguments: str) -> Json | None:
    """The fields of a call's item; None where the arguments do not fit its type."""
    text = arguments_text(arguments)
    if text is None:
        return None
    if kind == "tool_search":
        return {"execution": "client", "arguments": orjson.Fragment(text)}
    return TOOLS[kind].fields(json_text.loads(text))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _local_shell_fields(arguments: Json) -> Json | None:
    if not _are_texts(arguments.get("command")):
        return None
    return {"action": {"env": {}, **arguments, "type": "exec"}}


def _shell_fields(arguments: Json) -> Json | None:
    if not _are_texts(arguments.get("commands")):
        return None
    action = {"timeout_ms": None, "max_output_length": None, **arguments}
    return {"action": action, "environment": {"type": "local"}}


def _patch_fields(arguments: Json) -> Json | None:
    kind, path, diff = arguments.get("type"), arguments.get("path"), arguments.get("diff")
    if kind not in _OPERATIONS or not isinstance(path, str) or not isinstance(diff, str | None):
        return None
    if kind == "delete_file":
        return {"operation": {"type": kind, "path": path}}
    return None if diff is None else {"operation": {"type": kind, "path": path, "diff": diff}}


def _action(item: Json) -> Json:
    return {name: value for name, value in item["action"].items() if name != "type" and value not in (None, {})}


def _patch_result(item: Json) -> str:
    return "\n".join(filter(None, (str(item.get("status") or ""), item.get("output"))))


def _found(item: Json) -> str:
    """The names of the tools that a search has found: their definitions are among the tools of the chat."""
    names = []
    for tool in item["tools"]:
        inner = tool["tools"] if tool["type"] == "namespace" else [tool]
        prefix = f"{tool['name']}__" if tool["type"] == "namespace" else ""
        names += [f"{prefix}{one.get('name') or one['type']}" for one in inner]
    return json_text.dumps({"tools": names}).decode()


TOOLS: Final[Mapping[str, ClientTool]] = {
    "local_shell": ClientTool(
        description="Runs a command on the user's computer and returns its output.",
        parameters=_schema(("command",), command=_TEXTS, working_directory=_TEXT, timeout_ms=_COUNT),
        prefix="lsh",
        empty={"action": {"type": "exec", "command": [], "env": {}}},
        fields=_local_shell_fields,
        arguments=_action,
        result=lambda item: str(item["output"]),
    ),
    "shell": ClientTool(
        description="Runs shell commands on the user's computer, one after the other, and returns their output.",
        parameters=_schema(("commands",), commands=_TEXTS, timeout_ms=_COUNT, max_output_length=_COUNT),
        prefix="sh",
        empty={"action": {"commands": [], "timeout_ms": None, "max_output_length": None}, "environment": None},
        fields=_shell_fields,
        arguments=_action,
        result=lambda item: json_text.dumps(item["output"]).decode(),
    ),
    "apply_patch": ClientTool(
        description="Creates, updates or deletes one file. Each line of the diff begins with '+' (a new line), '-' (a "
        "line to remove) or a space (context that stays); '@@ text' goes to the line with that text. A new file has "
        "only lines with '+'.",
        parameters=_schema(
            ("type", "path"), type={"type": "string", "enum": list(_OPERATIONS)}, path=_TEXT, diff=_TEXT
        ),
        prefix="apc",
        empty={"operation": {"type": "update_file", "path": "", "diff": ""}},
        fields=_patch_fields,
        arguments=lambda item: item["operation"],
        result=_patch_result,
    ),
    "tool_search": ClientTool(
        description="Searches for further tools. Those that it finds can be called afterwards.",
        parameters=_schema(("query",), query=_TEXT),
        prefix="tsc",
        empty={"execution": "client", "arguments": {}},
        fields=lambda arguments: {"execution": "client", "arguments": arguments},
        arguments=lambda item: item["arguments"],
        result=_found,
    ),
}
CALLS: Final[Mapping[str, str]] = {f"{name}_call": name for name in TOOLS}
OUTPUTS: Final[Mapping[str, str]] = {
    "local_shell_call_output": "local_shell",
    "shell_call_output": "shell",
    "apply_patch_call_output": "apply_patch",
    "tool_search_output": "tool_search",
}

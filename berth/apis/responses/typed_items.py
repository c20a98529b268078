"""Items of the Responses API that are neither messages nor calls of functions: calls and outputs of tools with a type
of their own, tools that items bring, settings that items change, and what OpenAI's server did in earlier turns.
"""

from collections.abc import Iterable
from typing import Final

from berth import json_text
from berth.apis.openai.fields import mismatch, string_field
from berth.canonical import Json

# Calls of OpenAI's server -> their fields: those of the call, and those of the result.
SERVER_CALLS: Final[dict[str, tuple[str, ...]]] = {
    "code_interpreter_call": ("container_id", "code", "outputs"),
    "file_search_call": ("queries", "results"),
    "mcp_call": ("server_label", "name", "arguments", "output", "error"),
    "program": ("call_id", "code", "fingerprint"),
    "program_output": ("call_id", "result"),
}
_RESULTS: Final = ("output", "outputs", "results", "result", "error")
_NO_ARGUMENTS: Final = frozenset({*_RESULTS, "type", "id", "call_id", "status", "container_id", "fingerprint"})


def read_call(item: Json, param: str) -> Json:
    """Of a tool that has its own type and is run by the client."""
    name = "operation" if item["type"] == "apply_patch_call" else "action"
    if item["type"] == "tool_search_call":
        name, arguments = "arguments", item.get("arguments")
        if not isinstance(arguments, dict | str):
            raise mismatch(f"{param}.arguments", "an object", arguments)
    elif not isinstance(item.get(name), dict):
        raise mismatch(f"{param}.{name}", "an object", item.get(name))
    execution = {"execution": "client"} if name == "arguments" else {}
    call_id = string_field(item, "call_id", param)
    return {"type": item["type"], "call_id": call_id, name: item[name], **execution, "status": "completed"}


def read_output(item: Json, param: str) -> Json:
    kind, output = item["type"], item.get("output")
    if kind == "shell_call_output" and not isinstance(output, list):
        raise mismatch(f"{param}.output", "a list of outputs", output)
    if kind != "shell_call_output" and not isinstance(output, str | None):
        raise mismatch(f"{param}.output", "a string", output)
    # A local shell's output has the id of its call as its own.
    call_id = item.get("call_id") or item.get("id")
    if not isinstance(call_id, str):
        raise mismatch(f"{param}.call_id", "a string", call_id)
    most = {"max_output_length": item.get("max_output_length")} if kind == "shell_call_output" else {}
    status = item.get("status") or "completed"
    return {"type": kind, "call_id": call_id, "output": "" if output is None else output, "status": status, **most}


def read_tools_item(item: Json, param: str) -> Json:
    """Tools that a client's search has found, or that it adds. They are checked with those of the request."""
    if not isinstance(item.get("tools"), list):
        raise mismatch(f"{param}.tools", "a list of tools", item.get("tools"))
    if item["type"] == "additional_tools":
        return {"type": "additional_tools", "role": "developer", "tools": item["tools"]}
    call_id = item.get("call_id")
    if not isinstance(call_id, str | None):
        raise mismatch(f"{param}.call_id", "a string", call_id)
    execution = "client" if call_id else "server"
    fields = {"call_id": call_id, "execution": execution, "status": "completed", "tools": item["tools"]}
    return {"type": "tool_search_output", **fields}


def read_server_call(item: Json, param: str) -> Json:
    """A call that OpenAI's server made in an earlier turn, with its result, where it has one."""
    kind = item["type"]
    names = SERVER_CALLS[kind]
    if kind == "mcp_call":
        string_field(item, "name", param)
    return {"type": kind, **{name: item[name] for name in names if name in item}, "status": "completed"}


def read_configuration(item: Json, param: str) -> Json:
    """Settings that replace those of the request."""
    found = {name: item[name] for name in ("reasoning", "text") if item.get(name) is not None}
    for name, value in found.items():
        if not isinstance(value, dict):
            raise mismatch(f"{param}.{name}", "an object", value)
    return {"type": "configuration_update", **found}


def configured(document: Json, conversation: Iterable[Json]) -> Json:
    """The request with the settings of the items that update them."""
    for item in conversation:
        if item["type"] == "configuration_update":
            for name in ("reasoning", "text"):
                document = {**document, name: {**(document.get(name) or {}), **item.get(name, {})}}
    return document


def server_call(item: Json) -> Json:
    """The name of a call that OpenAI's server made, and its namespace."""
    if item["type"] == "mcp_call":
        return {"name": item["name"], "namespace": item.get("server_label")}
    return {"name": item["type"].removesuffix("_call")}


def server_arguments(item: Json) -> str:
    if item["type"] == "mcp_call":
        return str(item.get("arguments") or "{}")
    return json_text.dumps({name: value for name, value in item.items() if name not in _NO_ARGUMENTS}).decode()


def server_result(item: Json) -> str:
    """What such a call returned, as text."""
    result = next((item[name] for name in _RESULTS if item.get(name) is not None), "")
    return result if isinstance(result, str) else json_text.dumps(result).decode()

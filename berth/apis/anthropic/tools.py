"""Anthropic's tools as OpenAI's functions, and their names, which may be longer in Anthropic's API."""

import hashlib
from typing import Any, Final

from berth.apis.openai.fields import mismatch
from berth.canonical import Json
from berth.errors import InvalidRequestError

LONGEST_NAME: Final = 64  # of a function, in OpenAI's API
_DIGEST_BYTES: Final = 4
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


def short_name(name: str) -> str:
    """The name for the engine: a long one is truncated and gets a digest."""
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{name[: LONGEST_NAME - 1 - len(digest)]}_{digest}"


def long_names(document: Json) -> dict[str, str]:
    """Shortened name -> the client's name, for the tools of its request."""
    names = [tool["name"] for tool in document.get("tools") or () if isinstance(tool.get("name"), str)]
    return {short_name(name): name for name in names if len(name) > LONGEST_NAME}


def tool_fields(document: Json) -> tuple[Json, tuple[str, ...]]:
    """`tools`, `tool_choice` and `parallel_tool_calls` for the engine, and the tools without effect.

    Server tools (web search, code execution) do not exist here. Next to client tools they are ignored. Alone, or where
    the model must call one, the response would be made up: InvalidRequestError. A tool with `defer_loading` is sent to
    the model once a tool_reference, an earlier call or the choice has named it.
    """
    functions, foreign = [], []
    loaded: set[str] | None = None  # of the whole conversation: looked up once, and only if a tool is deferred
    for place, tool in enumerate(document.get("tools") or ()):
        function = _function(tool, f"tools.{place}")
        if function is None:
            foreign.append(tool["type"])
            continue
        if tool.get("defer_loading") is True:
            loaded = _loaded_tools(document) if loaded is None else loaded
            if tool["name"] not in loaded:
                continue
        functions.append(function)
    if foreign and not functions:
        raise InvalidRequestError(
            f"Server tools are not supported: {', '.join(foreign)}. Send client tools, which have an 'input_schema'.",
            param="tools",
        )
    fields: Json = {"tools": functions} if functions else {}
    if document.get("tool_choice") is not None:
        fields |= _choice_fields(document["tool_choice"], {function["function"]["name"] for function in functions})
    return fields, tuple(f"tools.{kind}" for kind in foreign)


def _function(tool: Any, param: str) -> Json | None:
    """None for a server tool: those have a type of their own, and no schema."""
    if not isinstance(tool, dict):
        raise mismatch(param, "an object", tool)
    schema = tool.get("input_schema")
    if schema is None and isinstance(tool.get("type"), str) and tool["type"] != "custom":
        return None
    name, description = tool.get("name"), tool.get("description")
    if not isinstance(name, str) or not name:
        raise mismatch(f"{param}.name", "a tool name", name)
    if not isinstance(schema, dict):
        raise mismatch(f"{param}.input_schema", "a JSON schema", schema)
    if not isinstance(description, str | None):
        raise mismatch(f"{param}.description", "a string", description)
    function: Json = {"name": short_name(name), "parameters": schema}
    if description:
        function["description"] = description
    if tool.get("strict") is True:
        function["strict"] = True
    return {"type": "function", "function": function}


def _loaded_tools(document: Json) -> set[str]:
    """The names of tools that the conversation or the choice has named."""
    choice = document.get("tool_choice")
    names = {choice["name"]} if isinstance(choice, dict) and isinstance(choice.get("name"), str) else set()
    for block in _content_blocks(document.get("messages")):
        if block.get("type") == "tool_use":
            names.add(str(block.get("name")))
        elif block.get("type") == "tool_result":
            inner = _content_blocks([block])
            names |= {str(part.get("tool_name")) for part in inner if part.get("type") == "tool_reference"}
    return names


def _content_blocks(holders: Any) -> list[Json]:
    """The objects in the `content` lists of messages or blocks, which are checked elsewhere."""
    lists = (
        [holder.get("content") for holder in holders if isinstance(holder, dict)] if isinstance(holders, list) else []
    )
    return [block for blocks in lists if isinstance(blocks, list) for block in blocks if isinstance(block, dict)]


def _choice_fields(choice: Any, names: set[str]) -> Json:
    kind = choice.get("type") if isinstance(choice, dict) else None
    fields: Json = {}
    if kind == "tool":
        name = choice.get("name")
        if not isinstance(name, str) or short_name(name) not in names:
            raise mismatch("tool_choice.name", "the name of a client tool in 'tools'", name)
        fields["tool_choice"] = {"type": "function", "function": {"name": short_name(name)}}
    elif isinstance(kind, str) and kind in _CHOICES:
        fields["tool_choice"] = _CHOICES[kind]
    else:
        raise mismatch("tool_choice.type", "auto, any, tool or none", kind)
    if kind == "any" and not names:
        raise InvalidRequestError("'tool_choice' of type 'any' needs 'tools'.", param="tool_choice")
    if not names:
        return {}
    if choice.get("disable_parallel_tool_use") is True:
        fields["parallel_tool_calls"] = False
    return fields

"""Anthropic's tools as OpenAI's functions, and their names: Anthropic allows longer ones."""

import hashlib
from typing import Any, Final

from berth.apis.openai.fields import shown
from berth.canonical import Json
from berth.errors import InvalidRequestError

LONGEST_NAME: Final = 64  # of a function, at OpenAI
_DIGEST_BYTES: Final = 4
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


def short_name(name: str) -> str:
    """The name for the engine: a long one is cut, and told from others by a digest."""
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{name[: LONGEST_NAME - 1 - len(digest)]}_{digest}"


def long_names(document: Json) -> dict[str, str]:
    """Shortened name -> the client's, for the tools of its request."""
    names = [tool["name"] for tool in document.get("tools") or () if isinstance(tool.get("name"), str)]
    return {short_name(name): name for name in names if len(name) > LONGEST_NAME}


def tool_fields(document: Json) -> tuple[Json, tuple[str, ...]]:
    """`tools`, `tool_choice` and `parallel_tool_calls` for the engine, and the tools that have no effect.

    Tools that run at Anthropic (web search, code execution) run nowhere here. Among others they are left out; alone, or
    where the model has to call one, the answer would be made up: InvalidRequestError. A tool with `defer_loading` is
    shown to the model when a tool_reference, an earlier call or the choice has named it.
    """
    functions, foreign = [], []
    for place, tool in enumerate(document.get("tools") or ()):
        function = _function(tool, f"tools.{place}")
        if function is None:
            foreign.append(tool["type"])
        elif tool.get("defer_loading") is not True or tool["name"] in _loaded(document):
            functions.append(function)
    if foreign and not functions:
        raise InvalidRequestError(
            f"Nothing here runs {', '.join(foreign)}. Allowed in 'tools': those with an 'input_schema', which the "
            "client runs.",
            param="tools",
        )
    fields: Json = {"tools": functions} if functions else {}
    fields |= _choice(document.get("tool_choice"), {function["function"]["name"] for function in functions})
    return fields, tuple(f"tools.{kind}" for kind in foreign)


def _function(tool: Any, param: str) -> Json | None:
    """None for one that runs at Anthropic: those have a type of their own, and no schema."""
    if not isinstance(tool, dict):
        raise InvalidRequestError(f"{param!r} must be an object, not {shown(tool)}.", param=param)
    schema = tool.get("input_schema")
    if schema is None and isinstance(tool.get("type"), str) and tool["type"] != "custom":
        return None
    name, description = tool.get("name"), tool.get("description")
    if not isinstance(name, str) or not name:
        raise InvalidRequestError(f"'{param}.name' must be a tool's name, not {shown(name)}.", param=f"{param}.name")
    if not isinstance(schema, dict):
        raise InvalidRequestError(
            f"'{param}.input_schema' must be a JSON schema, not {shown(schema)}.", param=f"{param}.input_schema"
        )
    if not isinstance(description, str | None):
        raise InvalidRequestError(
            f"'{param}.description' must be a string, not {shown(description)}.", param=f"{param}.description"
        )
    function: Json = {"name": short_name(name), "parameters": schema}
    if description:
        function["description"] = description
    if tool.get("strict") is True:
        function["strict"] = True
    return {"type": "function", "function": function}


def _loaded(document: Json) -> set[str]:
    """The names of tools that the conversation knows."""
    choice = document.get("tool_choice")
    names = {choice["name"]} if isinstance(choice, dict) and isinstance(choice.get("name"), str) else set()
    for block in _blocks(document.get("messages"), "content"):
        if block.get("type") == "tool_use":
            names.add(str(block.get("name")))
        elif block.get("type") == "tool_result":
            inner = _blocks([block], "content")
            names |= {str(one.get("tool_name")) for one in inner if one.get("type") == "tool_reference"}
    return names


def _blocks(holders: Any, name: str) -> list[Json]:
    """The objects in the lists of that name; whether they are as they should be is judged elsewhere."""
    lists = [holder.get(name) for holder in holders if isinstance(holder, dict)] if isinstance(holders, list) else []
    return [block for blocks in lists if isinstance(blocks, list) for block in blocks if isinstance(block, dict)]


def _choice(choice: Any, names: set[str]) -> Json:
    if choice is None:
        return {}
    kind = choice.get("type") if isinstance(choice, dict) else None
    fields: Json = {}
    if kind == "tool":
        fields["tool_choice"] = _named(choice.get("name"), names)
    elif isinstance(kind, str) and kind in _CHOICES:
        fields["tool_choice"] = _CHOICES[kind]
    else:
        raise InvalidRequestError(
            f"'tool_choice.type' must be auto, any, tool or none, not {shown(kind)}.", param="tool_choice.type"
        )
    if kind == "any" and not names:
        raise InvalidRequestError("'tool_choice' any needs 'tools'.", param="tool_choice")
    if not names:
        return {}
    if choice.get("disable_parallel_tool_use") is True:
        fields["parallel_tool_calls"] = False
    return fields


def _named(name: Any, names: set[str]) -> Json:
    if not isinstance(name, str) or short_name(name) not in names:
        raise InvalidRequestError(
            f"'tool_choice.name' must be one of 'tools' that the client runs, not {shown(name)}.",
            param="tool_choice.name",
        )
    return {"type": "function", "function": {"name": short_name(name)}}

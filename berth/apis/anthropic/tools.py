"""Anthropic's tools as OpenAI's functions, and their names, which may be longer in Anthropic's API."""

import hashlib
from typing import Any, Final

from berth.apis.anthropic.typed_tools import function_of, require_hosted
from berth.apis.openai.fields import mismatch
from berth.canonical import Json
from berth.errors import InvalidRequestError

LONGEST_NAME: Final = 64  # of a function, in OpenAI's API
_DIGEST_BYTES: Final = 4
TOOL_CHANGES: Final = ("tool_addition", "tool_removal")  # blocks
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
    the model once a tool_reference, an earlier call or the choice has named it, or if Anthropic's server would search
    for it. Blocks may add and remove tools.
    """
    changes = _Changes(document)
    functions, foreign = [], []
    for param, tool in changes.tools:
        function = _function(tool, param)
        if function is None:
            foreign.append(tool["type"])
        elif tool["name"] not in changes.removed and (
            tool.get("defer_loading") is not True or changes.searches or tool["name"] in changes.loaded
        ):
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
    kind, schema, description = tool.get("type"), tool.get("input_schema"), tool.get("description")
    if schema is None and isinstance(kind, str) and kind != "custom":
        typed = function_of(kind)
        if typed is None:
            require_hosted(kind, param)
            return None
        schema, description = typed["parameters"], typed["description"]
    name = tool.get("name")
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


class _Changes:
    """What the conversation does to the tools: those that it names are loaded, and blocks add or remove some."""

    def __init__(self, document: Json) -> None:
        self.tools = [(f"tools.{place}", tool) for place, tool in enumerate(document.get("tools") or ())]
        self.removed: set[str] = set()
        choice = document.get("tool_choice")
        named = choice.get("name") if isinstance(choice, dict) else None
        self.loaded = {named} if isinstance(named, str) else set()
        for block in _content_blocks(document.get("messages")):
            match block.get("type"):
                case "tool_use":
                    self.loaded.add(str(block.get("name")))
                case "tool_result":
                    self._load(_content_blocks([block]))
                case "tool_search_tool_result":
                    content = block.get("content")
                    found = content.get("tool_references") if isinstance(content, dict) else None
                    self._load(_content_blocks([{"content": found}]))
                case "compaction":
                    for change in _content_blocks([{"content": block.get("tool_changes")}]):
                        self._change(change)
                case _:
                    self._change(block)
        kinds = (tool.get("type") for _, tool in self.tools if isinstance(tool, dict))
        # Anthropic's server would search for tools.
        self.searches = any(isinstance(kind, str) and kind.startswith("tool_search_tool") for kind in kinds)

    def _load(self, parts: list[Json]) -> None:
        self.loaded |= {str(part.get("tool_name")) for part in parts if part.get("type") == "tool_reference"}

    def _change(self, block: Json) -> None:
        tool = block.get("tool")
        if block.get("type") not in TOOL_CHANGES or not isinstance(tool, dict):
            return
        definition = tool.get("definition")
        name = str((definition if isinstance(definition, dict) else tool).get("name"))
        if block["type"] == "tool_removal":
            self.removed.add(name)
            return
        self.removed.discard(name)
        self.loaded.add(name)
        if definition is not None:
            if len(name) > LONGEST_NAME:  # it would be shortened, and only names in `tools` are restored
                raise mismatch("tool_addition", f"a tool with a name of up to {LONGEST_NAME} characters", name)
            self.tools.append(("messages.tool_addition", definition))


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

"""The tools of a Responses request, which are flat there and nested in a chat.

Functions are forwarded. A custom tool, which takes free text, becomes a function with one argument `input`, and its
calls become custom calls again. Tools of a namespace become functions with the namespace as a prefix: Codex sends those
of MCP servers this way. Tools of other types that the client runs become functions too (client_tools), wherever in the
request they are brought. Types that run on OpenAI's own servers (web search and the like) are ignored: the model cannot
call them, and x-berth-ignored names them. A type that is unknown, or that no model here was taught, is an error.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from berth import json_text
from berth.apis.openai.fields import formatted, mismatch
from berth.apis.responses.client_tools import TOOLS
from berth.canonical import Json
from berth.errors import InvalidRequestError

CUSTOM_ARGUMENT = "input"
_CALLABLE = ("function", "custom")
_SEPARATOR = "__"  # between a namespace and a name
_SEPARATORS = re.compile(f"(?={_SEPARATOR})")
_LONGEST_NAME = 512  # of a tool or a namespace: a namespace is repeated in the names of all its tools
_NAMES_SHOWN = 20
# type of tool -> the fields that are used, and their types
_FIELDS: dict[str, dict[str, type]] = {
    "function": {"description": str, "parameters": dict, "strict": bool},
    "custom": {"description": str, "format": dict},
    "namespace": {"description": str},
}
# Types that run on OpenAI's servers: ignored.
HOSTED = frozenset(
    {
        *("web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11", "file_search"),
        *("code_interpreter", "image_generation", "mcp", "programmatic_tool_calling", "tool_search", "shell"),
    }
)
# Types that a client runs and that no function can replace -> what to do instead.
REFUSED = {
    "computer": "It needs a model that was trained for it: offer functions instead.",
    "computer_use_preview": "It needs a model that was trained for it: offer functions instead.",
}
_BRINGING = ("additional_tools", "tool_search_output")  # items with tools
_TYPE_NAMES = {str: "a string", dict: "an object", bool: "true or false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The client's tool behind a function of the chat."""

    custom: bool
    name: str
    namespace: str | None
    kind: str = ""  # of a tool with a type of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    chat: Json  # "tools" and "tool_choice" of a chat, where there are any
    response: list[Json]  # the used tools, in the form of a response
    choice: Any  # `tool_choice` in the form of a response
    origins: Mapping[str, Origin]  # by the name in the chat; without plain functions
    ignored: tuple[str, ...]


def read_tools(document: Json, conversation: Iterable[Json] = ()) -> Tools:
    """Those of the request, and those that items of the conversation bring. InvalidRequestError for an invalid tool,
    and for a choice that matches no tool.
    """
    collector = _ToolCollector()
    for place, tool in enumerate(document.get("tools") or ()):
        collector.add(tool, f"tools.{place}")
    response = tuple(collector.tools)
    for item in conversation:
        if item["type"] in _BRINGING:
            for place, tool in enumerate(item["tools"]):
                collector.add(tool, f"input.{item['type']}.tools.{place}")
    choice = document.get("tool_choice")
    allowed, chat_choice = _read_choice(choice, set(collector.functions))
    functions = [function for name, function in collector.functions.items() if name in allowed]
    chat: Json = {"tools": functions} if functions else {}
    if functions and chat_choice:
        chat["tool_choice"] = chat_choice
    return Tools(
        chat=chat,
        response=list(response),
        choice="auto" if choice is None else choice,
        origins=collector.origins,
        ignored=tuple(collector.ignored),
    )


def chat_name(name: str, namespace: str | None) -> str:
    """A chat has no namespaces."""
    return f"{namespace}{_SEPARATOR}{name}" if namespace else name


def custom_arguments(text: str) -> str:
    """The arguments of the function that represents a custom tool."""
    return json_text.dumps({CUSTOM_ARGUMENT: text}).decode()


def custom_input(arguments: str) -> str:
    """The free text in those arguments. Arguments of another form are the text themselves."""
    try:
        document = json_text.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    text = document.get(CUSTOM_ARGUMENT) if isinstance(document, dict) else None
    return text if isinstance(text, str) else arguments


class _ToolCollector:
    def __init__(self) -> None:
        self.tools: list[Json] = []  # in the form of a response
        self.functions: dict[str, Json] = {}  # of the chat, by name
        self.origins: dict[str, Origin] = {}
        self.ignored: list[str] = []

    def add(self, tool: Any, param: str) -> None:
        kind = _kind(tool, param)
        if kind in _CALLABLE:
            self.tools.append(self._add_callable(tool, param, None))
            return
        if kind in TOOLS and not TOOLS[kind].is_hosted(tool):
            self._add_client_tool(tool, param)
            return
        if kind != "namespace":
            self._ignore(kind, param)
            return
        namespace, inner, tools = _checked(tool, param), tool.get("tools"), []
        if not isinstance(inner, list):
            raise mismatch(f"{param}.tools", "a list of tools", inner)
        for place, one in enumerate(inner):
            kind = _kind(one, f"{param}.tools.{place}")
            if kind in _CALLABLE:
                tools.append(self._add_callable(one, f"{param}.tools.{place}", namespace["name"]))
            else:
                self._ignore(kind, f"{param}.tools.{place}")
        self.tools.append({"description": "", **namespace, "tools": tools})

    def _ignore(self, kind: str, param: str) -> None:
        if kind not in HOSTED:
            advice = REFUSED.get(kind, f"Known types: {', '.join(sorted((*_FIELDS, *TOOLS, *HOSTED)))}.")
            message = f"{param!r} is of type {kind!r}, which is not supported. {advice}"
            raise InvalidRequestError(message, param=f"{param}.type", code="unsupported_parameter")
        self.ignored.append(f"tools.{kind}")

    def _add_client_tool(self, tool: Json, param: str) -> None:
        kind = tool["type"]
        description, parameters = tool.get("description"), tool.get("parameters")
        for name, value, expected in (("description", description, str), ("parameters", parameters, dict)):
            if not isinstance(value, expected | None):
                raise mismatch(f"{param}.{name}", _TYPE_NAMES[expected], value)
        used = TOOLS[kind]
        fields = {"name": kind, "description": description or used.description}
        self.functions[kind] = {"type": "function", "function": {**fields, "parameters": parameters or used.parameters}}
        self.origins[kind] = Origin(custom=False, name=kind, namespace=None, kind=kind)
        self.tools.append(tool)

    def _add_callable(self, tool: Json, param: str, namespace: str | None) -> Json:
        checked = _checked(tool, param)
        own_name, custom = checked["name"], checked["type"] == "custom"
        name = chat_name(own_name, namespace)
        function = {**checked, "name": name}
        if custom:
            text = {"type": "string"}
            if definition := (checked.get("format") or {}).get("definition"):
                text["description"] = f"Text of this grammar: {definition}"
            properties = {CUSTOM_ARGUMENT: text}
            function["parameters"] = {"type": "object", "properties": properties, "required": [CUSTOM_ARGUMENT]}
        fields = {field: function[field] for field in ("name", *_FIELDS["function"]) if field in function}
        self.functions[name] = {"type": "function", "function": fields}
        self.origins.pop(name, None)
        if custom or namespace:
            self.origins[name] = Origin(custom=custom, name=own_name, namespace=namespace)
        if "format" in checked:
            self.ignored.append(f"tools.{own_name}.format")
        return checked


def _kind(tool: Any, param: str) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if not isinstance(kind, str):
        raise mismatch(param, "an object like {'type': 'function', 'name': ...}", tool)
    return kind


def _checked(tool: Json, param: str) -> Json:
    """The tool with the fields that are used."""
    if not isinstance(tool.get("name"), str) or not tool["name"]:
        raise InvalidRequestError(
            f"{param!r} has no 'name'. Tools of the Responses API are flat: {{'type': 'function', 'name': ..., "
            "'parameters': {...}}, without a nested 'function'.",
            param=f"{param}.name",
        )
    if len(tool["name"]) > _LONGEST_NAME:
        raise InvalidRequestError(
            f"{param!r} must have a name of at most {_LONGEST_NAME} characters, not {len(tool['name'])}.",
            param=f"{param}.name",
        )
    checked = {"type": tool["type"], "name": tool["name"]}
    for name, kind in _FIELDS[tool["type"]].items():
        value = tool.get(name)
        if value is None:
            continue
        if not isinstance(value, kind):
            raise mismatch(f"{param}.{name}", _TYPE_NAMES[kind], value)
        checked[name] = value
    return checked


def _read_choice(choice: Any, names: set[str]) -> tuple[set[str], Any]:
    """The names of the allowed tools, and a chat's `tool_choice`. There are five cases: the model decides (None in a
    chat), no call, some call, a call of one tool, or only some tools are allowed.
    """
    if choice in (None, "auto"):
        return names, None
    if choice == "none":
        return names, "none"
    if choice == "required":
        if not names:
            raise InvalidRequestError(
                "'tool_choice': 'required' needs a function or a custom tool in 'tools'.", param="tool_choice"
            )
        return names, "required"
    kind = str(choice.get("type")) if isinstance(choice, dict) else None
    if kind in _CALLABLE:
        return names, {"type": "function", "function": {"name": _known_name(choice, names, "tool_choice")}}
    if kind in TOOLS:
        return names, {"type": "function", "function": {"name": _known_name({"name": kind}, names, "tool_choice")}}
    if kind == "allowed_tools":
        return _read_allowed_tools(choice, names)
    expected = "'none', 'auto', 'required', or an object of type 'function', 'custom' or 'allowed_tools'"
    raise mismatch("tool_choice", expected, choice)


def _read_allowed_tools(choice: Json, names: set[str]) -> tuple[set[str], Any]:
    """Tools of other types were ignored before."""
    tools, mode = choice.get("tools"), choice.get("mode")
    if not isinstance(tools, list) or mode not in ("auto", "required"):
        raise InvalidRequestError(
            "'tool_choice' of type 'allowed_tools' must have a list 'tools' and a 'mode', 'auto' or 'required'.",
            param="tool_choice",
        )
    allowed, namespaces = set(), set()
    for place, tool in enumerate(tools):
        kind = _kind(tool, f"tool_choice.tools.{place}")
        if kind in _CALLABLE:
            allowed.add(_known_name(tool, names, f"tool_choice.tools.{place}"))
        elif kind in TOOLS:
            allowed.add(_known_name({"name": kind}, names, f"tool_choice.tools.{place}"))
        elif kind == "namespace":
            namespaces.add(str(tool.get("name")))
    for name in names:
        if not namespaces.isdisjoint(name[: found.start()] for found in _SEPARATORS.finditer(name)):
            allowed.add(name)
    if mode == "auto":
        return allowed, None
    if not allowed:
        raise InvalidRequestError(
            "'tool_choice' requires a call, but allows no function or custom tool.", param="tool_choice"
        )
    return allowed, "required"


def _known_name(choice: Json, names: set[str], param: str) -> str:
    name = chat_name(str(choice.get("name")), choice.get("namespace"))
    if name not in names:
        known = ", ".join(sorted(names)[:_NAMES_SHOWN]) or "there are none"
        raise InvalidRequestError(
            f"{param!r} must name one of the request's tools ({known}), not {formatted(choice.get('name'))}.",
            param=param,
        )
    return name

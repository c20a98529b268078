"""The tools of a Responses request: flat there, nested in a chat.

Functions pass. A custom tool, which takes free text, becomes a function with one argument `input`, and its calls become
custom calls again. Tools of a namespace are functions with its name before theirs: so Codex sends those of MCP servers.
All other types are tools that OpenAI's own servers run (web search and the like): engines have none of them, so they
are left out and listed as ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from berth.apis.openai.fields import shown
from berth.canonical import Json
from berth.errors import InvalidRequestError

CUSTOM_ARGUMENT = "input"
_CALLABLE = ("function", "custom")
_IN = "__"  # between a namespace and a name
# type of tool -> the fields that count, and what each must be
_FIELDS: dict[str, dict[str, type]] = {
    "function": {"description": str, "parameters": dict, "strict": bool},
    "custom": {"description": str, "format": dict},
    "namespace": {"description": str},
}
_TYPE_NAMES = {str: "a string", dict: "an object", bool: "true or false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a function of the chat is for the client."""

    custom: bool
    name: str
    namespace: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    chat: Json  # "tools" and "tool_choice" of a chat, where there are any
    shown: list[Json]  # the tools that count, as the response shows them
    choice: Any  # `tool_choice` as the response shows it
    origins: Mapping[str, Origin]  # by the chat's name, of those that are something else there
    ignored: tuple[str, ...]


def read_tools(document: Json) -> Tools:
    """InvalidRequestError for a tool that is none, and for a choice that no tool fits."""
    found = _Found()
    for place, tool in enumerate(document.get("tools") or ()):
        found.add(tool, f"tools.{place}")
    choice = document.get("tool_choice")
    allowed, chat_choice = _chosen(choice, {name for name, _ in found.functions})
    functions = [function for name, function in found.functions if name in allowed]
    return Tools(
        chat={"tools": functions, **({"tool_choice": chat_choice} if chat_choice else {})} if functions else {},
        shown=found.shown,
        choice="auto" if choice is None else choice,
        origins=found.origins,
        ignored=tuple(found.ignored),
    )


def chat_name(name: str, namespace: str | None) -> str:
    """A chat has no namespaces."""
    return f"{namespace}{_IN}{name}" if namespace else name


def custom_arguments(text: str) -> str:
    """The arguments of the function that stands for a custom tool."""
    return orjson.dumps({CUSTOM_ARGUMENT: text}).decode()


def custom_input(arguments: str) -> str:
    """The free text in those arguments; what is not of that form is the text itself."""
    try:
        document = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    text = document.get(CUSTOM_ARGUMENT) if isinstance(document, dict) else None
    return text if isinstance(text, str) else arguments


class _Found:
    def __init__(self) -> None:
        self.shown: list[Json] = []
        self.functions: list[tuple[str, Json]] = []  # of the chat, by name
        self.origins: dict[str, Origin] = {}
        self.ignored: list[str] = []

    def add(self, tool: Any, param: str) -> None:
        kind = _kind(tool, param)
        if kind == "namespace":
            self.shown.append(self._namespace(tool, param))
        elif kind in _CALLABLE:
            self.shown.append(self._callable(tool, param, None))
        else:
            self.ignored.append(f"tools.{kind}")

    def _namespace(self, tool: Json, param: str) -> Json:
        checked = _checked(tool, param)
        inner = tool.get("tools")
        if not isinstance(inner, list):
            raise InvalidRequestError(
                f"'{param}.tools' must be a list of tools, not {shown(inner)}.", param=f"{param}.tools"
            )
        tools = []
        for place, one in enumerate(inner):
            kind = _kind(one, f"{param}.tools.{place}")
            if kind in _CALLABLE:
                tools.append(self._callable(one, f"{param}.tools.{place}", checked["name"]))
            else:
                self.ignored.append(f"tools.{kind}")
        return {"description": "", **checked, "tools": tools}

    def _callable(self, tool: Json, param: str, namespace: str | None) -> Json:
        checked = _checked(tool, param)
        own, custom = checked["name"], checked["type"] == "custom"
        name = chat_name(own, namespace)
        self.functions.append((name, _function({**checked, "name": name})))
        if custom or namespace:
            self.origins[name] = Origin(custom=custom, name=own, namespace=namespace)
        if "format" in checked:
            self.ignored.append(f"tools.{own}.format")
        return checked


def _kind(tool: Any, param: str) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if not isinstance(kind, str):
        raise InvalidRequestError(
            f"{param!r} must be an object like {{'type': 'function', 'name': ...}}, not {shown(tool)}.", param=param
        )
    return kind


def _checked(tool: Json, param: str) -> Json:
    """The tool with the fields that Berth knows."""
    if not isinstance(tool.get("name"), str) or not tool["name"]:
        raise InvalidRequestError(
            f"{param!r} has no 'name'. The Responses API takes tools flat: {{'type': 'function', 'name': ..., "
            "'parameters': {...}}, without an inner 'function'.",
            param=f"{param}.name",
        )
    fields = _FIELDS[tool["type"]]
    kept = {"type": tool["type"], "name": tool["name"]}
    for name, kind in fields.items():
        value = tool.get(name)
        if value is None:
            continue
        if not isinstance(value, kind):
            raise InvalidRequestError(
                f"'{param}.{name}' must be {_TYPE_NAMES[kind]}, not {shown(value)}.", param=f"{param}.{name}"
            )
        kept[name] = value
    return kept


def _function(tool: Json) -> Json:
    if tool["type"] == "custom":
        text: Json = {"type": "string"}
        if definition := (tool.get("format") or {}).get("definition"):
            text["description"] = f"Text of this grammar: {definition}"
        schema = {"type": "object", "properties": {CUSTOM_ARGUMENT: text}, "required": [CUSTOM_ARGUMENT]}
        tool = {**tool, "parameters": schema}
    fields = ("name", *_FIELDS["function"])
    return {"type": "function", "function": {name: tool[name] for name in fields if name in tool}}


def _chosen(choice: Any, names: set[str]) -> tuple[set[str], Any]:
    """The names of the tools that may be called, and a chat's `tool_choice`. There are five cases: the model decides
    (None for a chat), `none`, any call is forced, one tool is, or some are allowed.
    """
    if choice in (None, "auto"):
        return names, None
    if choice == "none":
        return names, "none"
    if choice == "required":
        _need(names, "'tool_choice': 'required' needs 'tools' that engines can call: functions or custom tools.")
        return names, "required"
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind in _CALLABLE:
        name = _known_name(choice, names, "tool_choice")
        return names, {"type": "function", "function": {"name": name}}
    if kind == "allowed_tools":
        return _allowed(choice, names)
    raise InvalidRequestError(
        "'tool_choice' must be 'none', 'auto', 'required', or an object of type 'function', 'custom' or "
        f"'allowed_tools', not {shown(choice)}.",
        param="tool_choice",
    )


def _allowed(choice: Json, names: set[str]) -> tuple[set[str], Any]:
    """Only some of the tools; what is no function among them was left out already."""
    tools, mode = choice.get("tools"), choice.get("mode")
    if not isinstance(tools, list) or mode not in ("auto", "required"):
        raise InvalidRequestError(
            "'tool_choice' of type 'allowed_tools' must have a list 'tools' and a 'mode', 'auto' or 'required'.",
            param="tool_choice",
        )
    kept = set()
    for place, tool in enumerate(tools):
        kind = _kind(tool, f"tool_choice.tools.{place}")
        if kind in _CALLABLE:
            kept.add(_known_name(tool, names, f"tool_choice.tools.{place}"))
        elif kind == "namespace":
            kept |= {name for name in names if name.startswith(f"{tool.get('name')}{_IN}")}
    if mode == "required":
        _need(kept, "'tool_choice' forces a call but allows no tool that engines can call.")
    return kept, None if mode == "auto" else "required"


def _known_name(choice: Json, names: set[str], param: str) -> str:
    name = chat_name(str(choice.get("name")), choice.get("namespace"))
    if name not in names:
        raise InvalidRequestError(
            f"{param!r} must name one of the request's tools ({', '.join(sorted(names)) or 'there are none'}), "
            f"not {shown(choice.get('name'))}.",
            param=param,
        )
    return name


def _need(names: set[str], message: str) -> None:
    if not names:
        raise InvalidRequestError(message, param="tool_choice")

from typing import Any

import pytest

from berth.apis.responses.tools import Origin, Tools, custom_arguments, custom_input, read_tools
from berth.canonical import Json
from berth.errors import InvalidRequestError
from tests.fakes.responses import WEATHER

F: Json = {"type": "function", "name": "f"}
G: Json = {"type": "function", "name": "g"}
GRAMMAR: Json = {"type": "grammar", "syntax": "lark", "definition": "start: patch"}
PATCH: Json = {"type": "custom", "name": "apply_patch", "description": "Edits.", "format": GRAMMAR}


def read(choice: Any = None, *tools: Json) -> Tools:
    return read_tools({"tools": list(tools), "tool_choice": choice})


def test_a_function_is_nested_for_a_chat() -> None:
    tools = read(None, WEATHER)

    inner = {name: value for name, value in WEATHER.items() if name != "type"}
    assert tools.chat == {"tools": [{"type": "function", "function": inner}]}
    assert tools.response == [WEATHER]
    assert tools.choice == "auto"


def test_omits_null_fields() -> None:
    assert read(None, {**F, "parameters": None, "strict": None, "defer_loading": True}).chat["tools"] == [
        {"type": "function", "function": {"name": "f"}}
    ]


def test_custom_tool_becomes_a_function_with_one_string() -> None:
    tools = read(None, PATCH)

    text = {"type": "string", "description": "Text of this grammar: start: patch"}
    parameters = {"type": "object", "properties": {"input": text}, "required": ["input"]}
    function = {"name": "apply_patch", "description": "Edits.", "parameters": parameters}
    assert tools.chat["tools"] == [{"type": "function", "function": function}]
    assert tools.origins == {"apply_patch": Origin(custom=True, name="apply_patch", namespace=None)}
    assert tools.response == [PATCH]
    assert tools.ignored == ("tools.apply_patch.format",)


def test_lists_server_tools_as_ignored() -> None:
    tools = read("auto", {"type": "web_search"}, F, {"type": "tool_search"}, {"type": "mcp", "server_label": "x"})

    assert [tool["function"]["name"] for tool in tools.chat["tools"]] == ["f"]
    assert tools.ignored == ("tools.web_search", "tools.tool_search", "tools.mcp")
    assert tools.response == [F]


def test_namespace_becomes_a_name_prefix() -> None:
    """So does Codex send the tools of MCP servers."""
    inner = [F, {"type": "custom", "name": "c"}, {"type": "mcp"}]
    tools = read(None, F, {"type": "namespace", "name": "ns", "tools": inner})

    assert [tool["function"]["name"] for tool in tools.chat["tools"]] == ["f", "ns__f", "ns__c"]
    assert tools.origins == {
        "ns__f": Origin(custom=False, name="f", namespace="ns"),
        "ns__c": Origin(custom=True, name="c", namespace="ns"),
    }
    assert tools.response == [F, {"type": "namespace", "name": "ns", "description": "", "tools": inner[:2]}]
    assert tools.ignored == ("tools.mcp",)


def test_a_tool_of_a_namespace_can_be_chosen() -> None:
    space = {"type": "namespace", "name": "ns", "description": "d", "tools": [F, G]}
    one = read({"type": "function", "name": "g", "namespace": "ns"}, F, space)
    some = read({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "ns"}]}, F, space)

    assert one.chat["tool_choice"] == {"type": "function", "function": {"name": "ns__g"}}
    assert [tool["function"]["name"] for tool in some.chat["tools"]] == ["ns__f", "ns__g"]


def test_only_ignored_tools_make_no_field() -> None:
    assert read("none", {"type": "web_search"}).chat == {}
    assert read_tools({"tools": None}).chat == {}


CHOICES: dict[str, tuple[Any, list[str], Any]] = {
    "auto": ("auto", ["f", "g"], None),
    "none": ("none", ["f", "g"], "none"),
    "required": ("required", ["f", "g"], "required"),
    "one function": (
        {"type": "function", "name": "g"},
        ["f", "g"],
        {"type": "function", "function": {"name": "g"}},
    ),
    "some, if any": ({"type": "allowed_tools", "mode": "auto", "tools": [G, {"type": "mcp"}]}, ["g"], None),
    "one of some": ({"type": "allowed_tools", "mode": "required", "tools": [F]}, ["f"], "required"),
}


@pytest.mark.parametrize(("choice", "names", "chat"), CHOICES.values(), ids=CHOICES)
def test_translates_tool_choice(choice: Any, names: list[str], chat: Any) -> None:
    tools = read(choice, F, G)

    assert [tool["function"]["name"] for tool in tools.chat["tools"]] == names
    assert tools.chat.get("tool_choice") == chat
    assert tools.choice == choice
    assert tools.response == [F, G]


WRONG: dict[str, tuple[Any, list[Any], str]] = {
    "a tool as text": (None, ["f"], "tools.0"),
    "a tool without type": (None, [{"name": "f"}], "tools.0"),
    "a chat's tool": (None, [{"type": "function", "function": {"name": "f"}}], "tools.0.name"),
    "an empty name": (None, [F, {"type": "custom", "name": ""}], "tools.1.name"),
    "a name of a novel's length": (None, [{"type": "namespace", "name": "n" * 513, "tools": [F]}], "tools.0.name"),
    "parameters as text": (None, [{**F, "parameters": "{}"}], "tools.0.parameters"),
    "strict as text": (None, [{**F, "strict": "yes"}], "tools.0.strict"),
    "a format as text": (None, [{**PATCH, "format": "lark"}], "tools.0.format"),
    "a namespace without tools": (None, [{"type": "namespace", "name": "ns"}], "tools.0.tools"),
    "a namespace without a name": (None, [{"type": "namespace", "tools": []}], "tools.0.name"),
    "a wrong tool in a namespace": (
        None,
        [{"type": "namespace", "name": "ns", "tools": [F, {"type": "function"}]}],
        "tools.0.tools.1.name",
    ),
    "forced without tools": ("required", [{"type": "web_search"}], "tool_choice"),
    "an unknown function": ({"type": "function", "name": "h"}, [F], "tool_choice"),
    "a nested name": ({"type": "function", "function": {"name": "f"}}, [F], "tool_choice"),
    "a tool of OpenAI's": ({"type": "web_search"}, [{"type": "web_search"}], "tool_choice"),
    "a word": ("maybe", [F], "tool_choice"),
    "a list": ([F], [F], "tool_choice"),
    "allowed without mode": ({"type": "allowed_tools", "tools": [F]}, [F], "tool_choice"),
    "allowed as object": ({"type": "allowed_tools", "mode": "auto", "tools": {}}, [F], "tool_choice"),
    "allowed but unknown": ({"type": "allowed_tools", "mode": "auto", "tools": [F, G]}, [F], "tool_choice.tools.1"),
    "forced of none": ({"type": "allowed_tools", "mode": "required", "tools": []}, [F], "tool_choice"),
}


@pytest.mark.parametrize(("choice", "tools", "param"), WRONG.values(), ids=WRONG)
def test_rejects_invalid_tools_and_choices(choice: Any, tools: list[Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read(choice, *tools)

    assert refused.value.param == param


@pytest.mark.parametrize("text", ["", '*** Begin\n"x"', '{"input": 7}', "é🦊"])
def test_custom_input_round_trips(text: str) -> None:
    assert custom_input(custom_arguments(text)) == text


@pytest.mark.parametrize("arguments", ["not json", "[1]", '{"other": "x"}', '{"input": 7}'])
def test_arguments_of_another_form_are_the_text(arguments: str) -> None:
    assert custom_input(arguments) == arguments

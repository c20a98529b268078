from typing import Any

import pytest

from berth.apis.anthropic.tools import LONGEST_NAME, long_names, short_name, tool_fields
from berth.canonical import Json
from berth.errors import InvalidRequestError

TOOL: Json = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
FUNCTION: Json = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
}
SEARCH: Json = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
LONG = "mcp__" + "server__" * 10


def fields(**document: Any) -> Json:
    return tool_fields(document)[0]


def test_tools_become_functions() -> None:
    extras = {"type": "custom", "strict": True, "cache_control": {"type": "ephemeral"}, "eager_input_streaming": True}

    assert fields(tools=[TOOL]) == {"tools": [FUNCTION]}
    assert fields(tools=[TOOL | extras])["tools"][0]["function"] == FUNCTION["function"] | {"strict": True}


@pytest.mark.parametrize("tools", [None, []])
def test_no_tools_make_no_field(tools: Any) -> None:
    assert fields(tools=tools, tool_choice={"type": "auto"}) == {}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
        ({"type": "auto", "disable_parallel_tool_use": True}, {"tool_choice": "auto", "parallel_tool_calls": False}),
        ({"type": "any", "disable_parallel_tool_use": False}, {"tool_choice": "required"}),
    ],
)
def test_translates_tool_choice(choice: Json, expected: Json) -> None:
    assert fields(tools=[TOOL], tool_choice=choice) == {"tools": [FUNCTION], **expected}


def test_long_tool_name_is_shortened_and_restored() -> None:
    found = fields(tools=[TOOL | {"name": LONG}], tool_choice={"type": "tool", "name": LONG})
    short = found["tools"][0]["function"]["name"]

    assert len(short) == LONGEST_NAME
    assert short == short_name(LONG) == found["tool_choice"]["function"]["name"]
    assert long_names({"tools": [TOOL, TOOL | {"name": LONG}]}) == {short: LONG}


DEFERRED: Json = TOOL | {"name": "g", "defer_loading": True}
REFERENCE: Json = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_reference", "tool_name": "g"}]}
CALL: Json = {"type": "tool_use", "id": "t", "name": "g", "input": {}}


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ({}, ["f"]),
        ({"messages": "?"}, ["f"]),
        ({"messages": [{"role": "user", "content": "g"}, 7]}, ["f"]),
        ({"messages": [{"role": "user", "content": [REFERENCE, "?"]}]}, ["f", "g"]),
        ({"messages": [{"role": "assistant", "content": [CALL]}]}, ["f", "g"]),
        ({"tool_choice": {"type": "tool", "name": "g"}}, ["f", "g"]),
        ({"tool_choice": {"type": "auto"}}, ["f"]),
    ],
)
def test_deferred_tool_is_sent_once_named(document: Json, shown: list[str]) -> None:
    """Claude Code sends dozens of them, and a placeholder that must never be called."""
    tools = fields(tools=[TOOL, DEFERRED], **document)["tools"]

    assert [tool["function"]["name"] for tool in tools] == shown


def test_deferred_tools_alone_make_no_field() -> None:
    assert fields(tools=[DEFERRED]) == {}


def test_long_names_with_the_same_start_stay_distinct() -> None:
    assert short_name(LONG + "a") != short_name(LONG + "b")


@pytest.mark.parametrize("name", ["f", "x" * LONGEST_NAME])
def test_short_tool_name_is_unchanged(name: str) -> None:
    assert short_name(name) == name


def test_ignores_server_tools_next_to_client_tools() -> None:
    assert tool_fields({"tools": [SEARCH, TOOL]}) == ({"tools": [FUNCTION]}, ("tools.web_search_20250305",))


def test_typed_tool_with_a_schema_is_a_client_tool() -> None:
    assert fields(tools=[TOOL | {"type": "bash_20250124"}]) == {"tools": [FUNCTION]}


WRONG: dict[str, tuple[Json, str]] = {
    "nothing but a search": ({"tools": [SEARCH]}, "tools"),
    "no object": ({"tools": ["f"]}, "tools.0"),
    "no name": ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
    "an empty name": ({"tools": [TOOL | {"name": ""}]}, "tools.0.name"),
    "no schema": ({"tools": [TOOL, {"name": "g"}]}, "tools.1.input_schema"),
    "no schema of a custom tool": ({"tools": [{"type": "custom", "name": "g"}]}, "tools.0.input_schema"),
    "a schema as a string": ({"tools": [TOOL | {"input_schema": "{}"}]}, "tools.0.input_schema"),
    "another description": ({"tools": [TOOL | {"description": 7}]}, "tools.0.description"),
    "a choice without a type": ({"tools": [TOOL], "tool_choice": {}}, "tool_choice.type"),
    "a choice of another type": ({"tools": [TOOL], "tool_choice": {"type": "required"}}, "tool_choice.type"),
    "a choice that is a string": ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice.type"),
    "a choice among none": ({"tool_choice": {"type": "any"}}, "tool_choice"),
    "a tool that is not there": ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
    "a forced search": (
        {"tools": [SEARCH, TOOL], "tool_choice": {"type": "tool", "name": "web_search"}},
        "tool_choice.name",
    ),
    "a tool without a name": ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
}


@pytest.mark.parametrize(("document", "param"), WRONG.values(), ids=WRONG)
def test_rejects_invalid_tool_by_place(document: Json, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        tool_fields(document)

    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    ("tool", "properties"),
    [
        ({"type": "bash_20250124", "name": "bash"}, {"command", "restart"}),
        (
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
            {"command", "path", "view_range", "file_text", "old_str", "new_str", "insert_line", "insert_text"},
        ),
        (
            {"type": "text_editor_20241022", "name": "str_replace_editor"},
            {"command", "path", "view_range", "file_text", "old_str", "new_str", "insert_line"},
        ),
        (
            {"type": "memory_20250818", "name": "memory"},
            {
                *("command", "path", "view_range", "file_text", "old_str", "new_str", "insert_line", "insert_text"),
                *("old_path", "new_path"),
            },
        ),
    ],
)
def test_tools_that_the_client_runs_become_functions(tool: Json, properties: set[str]) -> None:
    found, ignored = tool_fields({"tools": [tool], "tool_choice": {"type": "tool", "name": tool["name"]}})

    (function,) = (one["function"] for one in found["tools"])
    assert (function["name"], set(function["parameters"]["properties"])) == (tool["name"], properties)
    assert found["tool_choice"] == {"type": "function", "function": {"name": tool["name"]}}
    assert function["description"]
    assert ignored == ()


@pytest.mark.parametrize("kind", ["computer_20251124", "browser_toolset_20260801", "teleport_20270101", "bash"])
def test_rejects_tools_that_are_unknown_or_need_a_special_model(kind: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"tools\.1"):
        fields(tools=[TOOL, {"type": kind}])


def test_deferred_tools_are_loaded_where_anthropics_server_would_search() -> None:
    found, ignored = tool_fields({"tools": [DEFERRED, {"type": "tool_search_tool_regex", "name": "search"}]})

    assert [tool["function"]["name"] for tool in found["tools"]] == ["g"]
    assert ignored == ("tools.tool_search_tool_regex",)


def block(kind: str, **tool: Any) -> Json:
    return {"type": kind, "tool": tool}


ADDED = block("tool_addition", type="tool_definition", definition=TOOL | {"name": "h"})
LOADED = block("tool_addition", type="tool_reference", name="g")
REMOVED = block("tool_removal", type="tool_reference", name="f")


@pytest.mark.parametrize(
    ("blocks", "names"),
    [
        ([ADDED], ["f", "h"]),
        ([LOADED], ["f", "g"]),
        ([REMOVED], []),
        ([REMOVED, block("tool_addition", type="tool_reference", name="f")], ["f"]),
        ([{"type": "compaction", "content": "x", "tool_changes": [ADDED, REMOVED]}], ["h"]),
        ([{"type": "compaction", "content": "x", "tool_changes": None}, block("tool_addition")], ["f"]),
        (
            [
                {
                    "type": "tool_search_tool_result",
                    "content": {"tool_references": [{"type": "tool_reference", "tool_name": "g"}]},
                }
            ],
            ["f", "g"],
        ),
    ],
    ids=["added", "loaded", "removed", "removed and added", "in a compaction", "none", "found"],
)
def test_conversation_changes_the_tools(blocks: list[Json], names: list[str]) -> None:
    found = fields(tools=[TOOL, DEFERRED], messages=[{"role": "system", "content": blocks}])

    assert [tool["function"]["name"] for tool in found.get("tools", ())] == names


def test_rejects_an_added_tool_with_a_long_name() -> None:
    added = block("tool_addition", type="tool_definition", definition=TOOL | {"name": LONG})

    with pytest.raises(InvalidRequestError, match="up to 64 characters"):
        fields(tools=[TOOL], messages=[{"role": "system", "content": [added]}])

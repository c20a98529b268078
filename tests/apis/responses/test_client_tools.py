"""Tools with a type of their own: the engine gets functions, the client its own items, streamed and whole."""

from typing import Any

import orjson
import pytest

from berth import json_text
from berth.apis.responses.items import REFUSED
from berth.canonical import Json
from berth.errors import InvalidRequestError
from tests.fakes.responses import (
    Memory,
    OfficialClient,
    api,
    call,
    check_item,
    check_order,
    check_response,
    encode,
    events,
    request_of,
    stream_of,
)

SEARCH: Json = {
    "type": "tool_search",
    "execution": "client",
    "description": "Finds tools.",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}}},
}
QUERY: Json = {"type": "function", "name": "query", "defer_loading": True, "parameters": {"type": "object"}}
SPACE: Json = {"type": "namespace", "name": "mcp__db", "description": "", "tools": [QUERY]}
USER: Json = {"role": "user", "content": "x"}

# tool -> the model's arguments, and the fields of the item that the client gets
CALLS: dict[str, tuple[Json, str, Json]] = {
    "local_shell": (
        {"type": "local_shell"},
        '{"command": ["ls", "-l"], "timeout_ms": 1000}',
        {"action": {"type": "exec", "command": ["ls", "-l"], "env": {}, "timeout_ms": 1000}},
    ),
    "shell": (
        {"type": "shell", "environment": {"type": "local"}},
        '{"commands": ["ls", "pwd"], "max_output_length": 4096}',
        {
            "action": {"commands": ["ls", "pwd"], "timeout_ms": None, "max_output_length": 4096},
            "environment": {"type": "local"},
        },
    ),
    "apply_patch": (
        {"type": "apply_patch"},
        '{"type": "update_file", "path": "a.py", "diff": "@@\\n-a\\n+b"}',
        {"operation": {"type": "update_file", "path": "a.py", "diff": "@@\n-a\n+b"}},
    ),
    "tool_search": (
        SEARCH,
        '{"query": "db", "limit": 1.0}',
        {"execution": "client", "arguments": {"query": "db", "limit": 1.0}},
    ),
}
# the item of an output -> its text for the model
OUTPUTS: dict[str, tuple[Json, str]] = {
    "local_shell": ({"type": "local_shell_call_output", "id": "c1", "output": "a.py"}, "a.py"),
    "shell": (
        {
            "type": "shell_call_output",
            "call_id": "c1",
            "output": [{"stdout": "a.py", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
        },
        '[{"stdout":"a.py","stderr":"","outcome":{"type":"exit","exit_code":0}}]',
    ),
    "apply_patch": (
        {"type": "apply_patch_call_output", "call_id": "c1", "status": "failed", "output": "no such line"},
        "failed\nno such line",
    ),
    "tool_search": ({"type": "tool_search_output", "call_id": "c1", "tools": [SPACE]}, '{"tools":["mcp__db__query"]}'),
}


@pytest.mark.parametrize("name", CALLS)
def test_whole_call_is_of_the_tools_own_type(name: str) -> None:
    tool, arguments, fields = CALLS[name]
    request = request_of(tools=[tool])
    made = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    choice = {"message": {"role": "assistant", "content": None, "tool_calls": [made]}, "finish_reason": "tool_calls"}

    response = orjson.loads(api().response(request, orjson.dumps({"choices": [choice]})))

    (item,) = check_response(response)["output"]
    assert [one["function"]["name"] for one in request.body["tools"]] == [name]
    assert (item["type"], item["call_id"], item["status"]) == (f"{name}_call", "c1", "completed")
    assert {key: item[key] for key in fields} == fields
    assert response["tools"] == [tool]


@pytest.mark.parametrize("name", CALLS)
def test_streamed_call_is_of_the_tools_own_type(name: str) -> None:
    tool, arguments, fields = CALLS[name]
    halves = [call(0, name=name, call_id="c1"), call(0, arguments[:9]), call(0, arguments[9:])]

    stream = encode(request_of(stream=True, tools=[tool]), stream_of(*halves, finish="tool_calls"))

    found = events(stream)
    check_order(found)
    kinds = [event["type"] for event in found if "item" in event]
    assert kinds == ["response.output_item.added", "response.output_item.done"]
    item = found[-1]["response"]["output"][0]
    assert {key: item[key] for key in fields} == fields
    assert OfficialClient().accumulated(stream)["output"][0]["type"] == f"{name}_call"


def test_a_file_is_deleted_without_a_diff() -> None:
    made = [call(0, '{"type": "delete_file", "path": "a.py"}', name="apply_patch", call_id="c1")]

    found = events(encode(request_of(stream=True, tools=[{"type": "apply_patch"}]), stream_of(*made)))

    assert found[-1]["response"]["output"][0]["operation"] == {"type": "delete_file", "path": "a.py"}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("arguments", ["true", '{"command": "ls", "commands": 7, "path": 1}', "{"])
def test_arguments_that_do_not_fit_stay_what_the_model_wrote(name: str, arguments: str) -> None:
    if name == "tool_search" and arguments.startswith('{"'):
        return  # any object fits it
    halves = [call(0, name=name, call_id="c1"), call(0, arguments)]

    found = events(encode(request_of(stream=True, tools=[CALLS[name][0]]), stream_of(*halves, finish="tool_calls")))

    item = found[-1]["response"]["output"][0]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", name, arguments)


@pytest.mark.parametrize("name", CALLS)
def test_call_and_output_return_to_the_model(name: str) -> None:
    tool, arguments, fields = CALLS[name]
    output, text = OUTPUTS[name]
    made = {"type": f"{name}_call", "call_id": "c1", "status": "completed", **fields}

    request = request_of(tools=[tool], input=[USER, made, output])

    _, assistant, result = request.body["messages"]
    function = assistant["tool_calls"][0]["function"]
    sent = {key: value for key, value in orjson.loads(arguments).items() if value is not None}
    assert (function["name"], orjson.loads(function["arguments"])) == (name, sent)
    assert result == {"role": "tool", "tool_call_id": "c1", "content": text}
    assert request.ignored == ()
    for item in request.conversation:
        check_item(item)


@pytest.mark.parametrize("where", ["tools", "tool_search_output", "additional_tools", "stored"])
def test_tools_can_be_called_wherever_they_were_brought(where: str) -> None:
    store = Memory()
    found: Json = {"type": "tool_search_output", "call_id": "c1", "tools": [SPACE]}
    if where == "additional_tools":
        found = {"type": "additional_tools", "role": "developer", "tools": [SPACE]}
    fields: Json = {"input": [USER, *([] if where == "tools" else [found])]}
    if where == "tools":
        fields["tools"] = [SPACE]
    if where == "stored":
        first = api(store).parse(orjson.dumps({"model": "m", "input": [USER, found]}))
        done = api(store).response(first, orjson.dumps({"choices": [{"message": {"content": "a"}}]}))
        fields = {"input": "go on", "previous_response_id": orjson.loads(done)["id"]}

    request = api(store).parse(orjson.dumps({"model": "m", **fields}))

    assert [tool["function"]["name"] for tool in request.body["tools"]] == ["mcp__db__query"]
    assert not any("tool" in name for name in request.ignored)


def test_tools_of_one_name_are_one_function_with_the_last_definition() -> None:
    newer = {**QUERY, "description": "new"}
    found = [
        {"type": "tool_search_output", "call_id": f"c{n}", "tools": [tool]} for n, tool in enumerate((QUERY, newer))
    ]

    request = request_of(input=[USER, *found])

    assert [tool["function"].get("description") for tool in request.body["tools"]] == ["new"]


def test_what_openais_server_searched_for_is_loaded_and_the_search_ignored() -> None:
    server: Json = {"type": "tool_search_call", "execution": "server", "call_id": None, "arguments": {}}
    found = {"type": "tool_search_output", "execution": "server", "call_id": None, "tools": [QUERY]}

    request = request_of(input=[USER, server, found], tools=[{"type": "tool_search"}])

    assert [message["role"] for message in request.body["messages"]] == ["user"]
    assert [tool["function"]["name"] for tool in request.body["tools"]] == ["query"]
    assert request.ignored == ("tools.tool_search", "input.tool_search_call")


SERVER_CALLS: dict[str, tuple[Json, str, str]] = {
    "mcp": (
        {"type": "mcp_call", "id": "m1", "server_label": "db", "name": "q", "arguments": '{"a": 1.0}', "output": "7"},
        '{"a": 1.0}',
        "7",
    ),
    "code": (
        {"type": "code_interpreter_call", "id": "m1", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]},
        '{"code":"1+1"}',
        '[{"type":"logs","logs":"2"}]',
    ),
    "files": (
        {"type": "file_search_call", "id": "m1", "queries": ["x"], "results": [{"text": "y"}]},
        '{"queries":["x"]}',
        '[{"text":"y"}]',
    ),
}


@pytest.mark.parametrize("name", SERVER_CALLS)
def test_results_of_openais_server_reach_the_model(name: str) -> None:
    item, arguments, text = SERVER_CALLS[name]

    _, assistant, result = request_of(input=[USER, item]).body["messages"]

    assert assistant["tool_calls"][0]["function"]["arguments"] == arguments
    assert result == {"role": "tool", "tool_call_id": "m1", "content": text}


def test_program_and_its_output_reach_the_model() -> None:
    items = [
        {"type": "program", "call_id": "p", "code": "f()", "fingerprint": "x", "id": "p1"},
        {"type": "program_output", "call_id": "p", "result": "7", "status": "completed", "id": "p2"},
    ]

    _, assistant, result = request_of(input=[USER, *items]).body["messages"]

    assert assistant["tool_calls"][0]["function"] == {"name": "program", "arguments": '{"code":"f()"}'}
    assert (result["tool_call_id"], result["content"]) == ("p", "7")


def test_configuration_update_replaces_settings() -> None:
    form = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
    update = {"type": "configuration_update", "reasoning": {"effort": "low"}, "text": {"format": form}}

    request = request_of(input=[USER, update, USER], reasoning={"effort": "high", "summary": "auto"})

    assert request.body["reasoning_effort"] == "low"
    assert request.body["response_format"]["type"] == "json_schema"
    assert request.settings["reasoning"] == {"effort": "low", "summary": "auto"}


def test_message_of_an_agent_is_the_users() -> None:
    item = {
        "type": "agent_message",
        "author": "a",
        "recipient": "b",
        "content": [{"type": "input_text", "text": "Go."}],
    }

    (message,) = request_of(input=[item]).body["messages"]

    assert [part["text"] for part in message["content"]] == ["Message from a to b:", "Go."]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_lost_is_refused(kind: str) -> None:
    with pytest.raises(InvalidRequestError, match=kind) as refused:
        request_of(input=[USER, {"type": kind, "id": "x", "encrypted_content": "gAAAA", "result": "AA=="}])

    assert refused.value.param == "input.1.type"


@pytest.mark.parametrize(
    "choice", [{"type": "shell"}, {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "shell"}]}]
)
def test_client_tools_can_be_chosen(choice: Json) -> None:
    request = request_of(tools=[CALLS["shell"][0], {"type": "function", "name": "f"}], tool_choice=choice)

    names = [tool["function"]["name"] for tool in request.body["tools"]]
    assert "shell" in names
    assert request.body.get("tool_choice", names) in (names, {"type": "function", "function": {"name": "shell"}})


WRONG: dict[str, tuple[Any, str]] = {
    "an action as text": ({"type": "shell_call", "call_id": "c", "action": "ls"}, "input.0.action"),
    "no call id": ({"type": "shell_call", "action": {}}, "input.0.call_id"),
    "no operation": ({"type": "apply_patch_call", "call_id": "c"}, "input.0.operation"),
    "a search with a list": ({"type": "tool_search_call", "call_id": "c", "arguments": []}, "input.0.arguments"),
    "an output as text": ({"type": "shell_call_output", "call_id": "c", "output": "x"}, "input.0.output"),
    "an output as a list": ({"type": "apply_patch_call_output", "call_id": "c", "output": []}, "input.0.output"),
    "an output of no call": ({"type": "local_shell_call_output", "output": "x"}, "input.0.call_id"),
    "no tools": ({"type": "tool_search_output", "call_id": "c"}, "input.0.tools"),
    "a wrong tool": ({"type": "tool_search_output", "call_id": "c", "tools": [{"type": "x"}]}, "x"),
    "an id that is a number": ({"type": "tool_search_output", "call_id": 7, "tools": []}, "input.0.call_id"),
    "an agent without a message": ({"type": "agent_message", "author": "a", "recipient": "b"}, "input.0.content"),
    "settings as text": ({"type": "configuration_update", "text": "x"}, "input.0.text"),
    "a call without a name": ({"type": "mcp_call", "id": "m"}, "input.0.name"),
}


@pytest.mark.parametrize(("item", "words"), WRONG.values(), ids=WRONG)
def test_rejects_invalid_items(item: Json, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        request_of(input=[item])


@pytest.mark.parametrize(
    "tool",
    [{"type": "computer"}, {"type": "teleport"}, {**SEARCH, "parameters": "x"}, {**SEARCH, "description": 7}],
)
def test_rejects_tools_that_are_unknown_invalid_or_need_a_special_model(tool: Json) -> None:
    with pytest.raises(InvalidRequestError, match=r"tools\.0"):
        request_of(tools=[tool])


def test_hosted_shell_is_ignored() -> None:
    request = request_of(tools=[{"type": "shell", "environment": {"type": "container_auto"}}])

    assert request.ignored == ("tools.shell",)
    assert json_text.dumps(request.body) == b'{"model":"m","messages":[{"role":"user","content":"Hello"}]}'

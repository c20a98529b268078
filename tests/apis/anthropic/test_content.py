from typing import Any

import pytest

from berth.apis.anthropic.content import conversation
from berth.canonical import Json
from berth.errors import InvalidRequestError

USER: Json = {"role": "user", "content": "Hi"}
USE: Json = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": [1]}}
RESULT: Json = {"type": "tool_result", "tool_use_id": "c", "content": "7"}
PNG: Json = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
SHOWN_PNG: Json = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
BILLING = "x-anthropic-billing-header: cc_version=2.1.100; cc_entrypoint=cli; cch=eb6c6;"


def messages(*turns: Json, system: Any = None) -> list[Json]:
    return conversation({"messages": list(turns), "system": system}).messages


def user(*blocks: Json) -> Json:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Json) -> Json:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str) -> Json:
    return {"type": "text", "text": words}


def test_strings_are_unchanged() -> None:
    turns = [USER, {"role": "assistant", "content": "Hello"}, USER]

    assert messages(*turns, system="Be short.") == [{"role": "system", "content": "Be short."}, *turns]


@pytest.mark.parametrize("system", [None, "", [], [text("")]])
def test_empty_system_prompt_makes_no_message(system: Any) -> None:
    assert messages(USER, system=system) == [USER]


def test_system_blocks_are_one_message() -> None:
    system = [text("a") | {"cache_control": {"type": "ephemeral"}}, text("b")]

    assert messages(USER, system=system)[0] == {"role": "system", "content": "a\n\nb"}


@pytest.mark.parametrize(
    "system",
    [[text(BILLING), text("You are.")], [text(f"{BILLING}\nYou are.")], f"{BILLING}\n\nYou are."],
    ids=["a block", "the beginning of a block", "the beginning of a string"],
)
def test_removes_claude_codes_billing_header(system: Any) -> None:
    assert messages(USER, system=system)[0]["content"] == "You are."


def test_keeps_the_billing_header_elsewhere() -> None:
    assert messages(USER, system=f"Explain {BILLING}")[0]["content"] == f"Explain {BILLING}"


def test_leading_system_message_joins_the_system_prompt() -> None:
    first = {"role": "system", "content": "b"}

    assert messages(first, USER, system="a")[0] == {"role": "system", "content": "a\n\nb"}


def test_later_system_message_is_marked_in_the_users_turn() -> None:
    later = {"role": "system", "content": "In English now."}

    assert messages(USER, later) == [{"role": "user", "content": "Hi\n<system>\nIn English now.\n</system>"}]


def test_system_message_does_not_separate_call_and_result() -> None:
    later = {"role": "system", "content": "s"}

    roles = [message["role"] for message in messages(USER, assistant(USE), later, user(RESULT, text("go on")))]

    assert roles == ["user", "assistant", "tool", "user"]


def test_merges_adjacent_messages_of_one_role() -> None:
    turns = messages(USER, user(text("a"), text("b")), assistant(text("c")), assistant(text("d"), USE), user(RESULT))

    assert turns[0] == {"role": "user", "content": "Hi\na\nb"}
    assert turns[1]["content"] == "cd"
    assert len(turns) == 3


def test_translates_a_call_and_its_result() -> None:
    turns = messages(USER, assistant(text("Let me see."), USE), user(RESULT))

    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":[1]}'}}
    assert turns[1:] == [
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "7"},
    ]


def test_results_come_before_the_users_other_content() -> None:
    other = RESULT | {"tool_use_id": "d", "content": [text("8"), text("9")]}

    turns = messages(USER, assistant(USE, USE | {"id": "d"}), user(text("Well?"), RESULT, other))

    assert [(turn["role"], turn["content"]) for turn in turns[2:]] == [
        ("tool", "7"),
        ("tool", "8\n9"),
        ("user", "Well?"),
    ]


def test_marks_the_result_of_a_failed_tool() -> None:
    turns = messages(USER, assistant(USE), user(RESULT | {"is_error": True}))

    assert turns[2]["content"] == "Error: 7"


@pytest.mark.parametrize("content", [None, "", []])
def test_a_result_may_be_empty(content: Any) -> None:
    assert messages(USER, assistant(USE), user(RESULT | {"content": content}))[2]["content"] == ""


def test_images_of_a_result_move_to_the_user_message() -> None:
    turns = messages(USER, assistant(USE), user(RESULT | {"content": [text("see"), PNG]}, text("Well?")))

    assert turns[2]["content"] == "see"
    assert turns[3] == {"role": "user", "content": [SHOWN_PNG, text("Well?")]}


def test_images_by_url_and_as_base64() -> None:
    by_url = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}

    assert messages(user(text("What?"), PNG, by_url))[0]["content"] == [
        text("What?"),
        SHOWN_PNG,
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
    ]


def test_translates_documents_and_search_results() -> None:
    plain = {"type": "document", "title": "T", "context": "C", "source": {"type": "text", "data": "plain"}}
    parts = {"type": "document", "source": {"type": "content", "content": [text("inner"), PNG]}}
    string = {"type": "document", "source": {"type": "content", "content": "string"}}
    search = {"type": "search_result", "title": "S", "source": "http://s", "content": [text("found")]}

    assert messages(user(plain, string, search))[0]["content"] == "T\nC\nplain\nstring\nS\nhttp://s\nfound"
    assert messages(user(parts))[0]["content"] == [text("inner"), SHOWN_PNG]


def test_tool_reference_becomes_its_name() -> None:
    reference = {"type": "tool_reference", "tool_name": "g"}

    assert messages(USER, assistant(USE), user(RESULT | {"content": [reference]}))[2]["content"] == "g"


def test_sends_reasoning_without_its_signature() -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "from anywhere"}

    turns = messages(USER, assistant(thinking, text("Yes."), USE), user(RESULT))

    assert turns[1]["reasoning"] == "Hm."
    assert "signature" not in str(turns)


def test_drops_assistant_message_without_readable_blocks() -> None:
    encrypted = {"type": "redacted_thinking", "data": "x"}

    assert messages(USER, assistant(encrypted), user(text("Well?"))) == [USER, {"role": "user", "content": "Well?"}]


def test_lists_ignored_assistant_blocks() -> None:
    foreign = [{"type": "redacted_thinking", "data": "x"}, {"type": "server_tool_use", "id": "s"}]

    found = conversation({"messages": [USER, assistant(*foreign, text("Yes.")), USER]})

    assert found.ignored == {"messages.redacted_thinking", "messages.server_tool_use"}
    assert found.messages[1] == {"role": "assistant", "content": "Yes."}


def test_last_assistant_message_prefills_the_response() -> None:
    found = conversation({"messages": [USER, assistant(text("The answer"), text(" is"))]})

    assert found.prefilled
    assert found.messages[-1] == {"role": "assistant", "content": "The answer is"}


@pytest.mark.parametrize("content", ["", [], [{"type": "redacted_thinking", "data": ""}]])
def test_empty_assistant_message_prefills_nothing(content: Any) -> None:
    found = conversation({"messages": [USER, {"role": "assistant", "content": content}]})

    assert (found.prefilled, found.messages) == (False, [USER])


def test_reasoning_alone_prefills_nothing() -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "s"}

    assert conversation({"messages": [USER, assistant(thinking)]}).messages == [USER]


def test_keeps_an_empty_user_message() -> None:
    assert messages({"role": "user", "content": ""}) == [{"role": "user", "content": ""}]


def wrong(block: Json) -> list[Json]:
    return [user(block)]


def said(block: Json) -> list[Json]:
    return [USER, assistant(block), USER]


WRONG: dict[str, tuple[list[Any], str]] = {
    "no object": (["Hi"], "messages.0"),
    "no role": ([{"content": "Hi"}], "messages.0.role"),
    "another role": ([{"role": "tool", "content": "Hi"}], "messages.0.role"),
    "no content": ([{"role": "user"}], "messages.0.content"),
    "content of another type": ([{"role": "user", "content": 7}], "messages.0.content"),
    "a block that is no object": ([user(text("a")), {"role": "user", "content": ["b"]}], "messages.1.content.0"),
    "a block without a type": (wrong({"text": "a"}), "messages.0.content.0"),
    "a block of another type": (wrong({"type": "container_upload", "file_id": "f"}), "messages.0.content.0"),
    "text without text": (wrong({"type": "text"}), "messages.0.content.0.text"),
    "a user's call": (wrong(USE), "messages.0.content.0"),
    "an image without a source": (wrong({"type": "image"}), "messages.0.content.0.source"),
    "an image from a file": (
        wrong({"type": "image", "source": {"type": "file", "file_id": "f"}}),
        "messages.0.content.0.source",
    ),
    "an image without data": (
        wrong({"type": "image", "source": {"type": "base64", "media_type": "image/png"}}),
        "messages.0.content.0.source.data",
    ),
    "a PDF": (
        wrong({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}}),
        "messages.0.content.0.source",
    ),
    "a document in a document": (
        wrong({"type": "document", "source": {"type": "content", "content": [{"type": "document"}]}}),
        "messages.0.content.0.source.content.0",
    ),
    "a result of nothing": (wrong({"type": "tool_result"}), "messages.0.content.0.tool_use_id"),
    "a result in a result": (wrong(RESULT | {"content": [RESULT]}), "messages.0.content.0.content.0"),
    "input as a string": (said(USE | {"input": "{}"}), "messages.1.content.0.input"),
    "a call without a name": (said(USE | {"name": None}), "messages.1.content.0.name"),
    "a call without an id": (said(USE | {"id": 7}), "messages.1.content.0.id"),
    "a call at the end": ([USER, assistant(USE)], "messages"),
    "system blocks that are not text": ([USER, {"role": "system", "content": [PNG]}], "messages.1.content.0"),
    "nothing but a system message": ([{"role": "system", "content": "a"}], "messages"),
    "nothing but an empty answer": ([{"role": "assistant", "content": ""}], "messages"),
}


@pytest.mark.parametrize(("turns", "param"), WRONG.values(), ids=WRONG)
def test_rejects_unreadable_block_by_place(turns: list[Json], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        conversation({"messages": turns})

    assert caught.value.param == param
    assert param in caught.value.message


def test_rejects_invalid_system_prompt() -> None:
    with pytest.raises(InvalidRequestError, match=r"system\.0"):
        conversation({"messages": [USER], "system": [PNG]})


COMPACTION: Json = {"type": "compaction", "content": "All before."}
SUMMARY = "<summary>\nAll before.\n</summary>"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([assistant(COMPACTION), user(text("Go on."))], [{"role": "user", "content": f"{SUMMARY}\nGo on."}]),
        (
            [user(text("Old.")), assistant(text("Older."), COMPACTION, text("a")), user(text("Go on."))],
            [
                {"role": "user", "content": SUMMARY},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "Go on."},
            ],
        ),
        (
            [assistant({**COMPACTION, "content": "first"}, COMPACTION), user(text("Go on."))],
            [{"role": "user", "content": f"{SUMMARY}\nGo on."}],
        ),
        (
            [user(text("Old.")), assistant({"type": "compaction", "content": None}, text("a")), user(text("Go on."))],
            [
                {"role": "user", "content": "Old."},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "Go on."},
            ],
        ),
    ],
    ids=["alone", "after others", "twice", "failed"],
)
def test_compaction_replaces_what_came_before(given: list[Json], expected: list[Json]) -> None:
    assert messages(*given) == expected


def test_summary_must_be_text() -> None:
    with pytest.raises(InvalidRequestError, match="content"):
        messages(assistant({"type": "compaction", "content": 7}), USER)


SERVER_RESULTS: dict[str, tuple[Json, str]] = {
    "text": ({"type": "mcp_tool_result", "content": "7"}, "7"),
    "texts": ({"type": "mcp_tool_result", "content": [text("a"), text("b")]}, "a\nb"),
    "a search": (
        {
            "type": "web_search_tool_result",
            "content": [{"type": "web_search_result", "url": "http://x", "encrypted_content": "gA", "page_age": None}],
        },
        '[{"type":"web_search_result","url":"http://x"}]',
    ),
    "a program": (
        {"type": "code_execution_tool_result", "content": {"type": "code_execution_result", "stdout": "2"}},
        '{"type":"code_execution_result","stdout":"2"}',
    ),
    "nothing": ({"type": "mcp_tool_result", "content": None}, "[]"),
}


@pytest.mark.parametrize(("result", "shown"), SERVER_RESULTS.values(), ids=SERVER_RESULTS)
def test_results_of_anthropics_servers_reach_the_model(result: Json, shown: str) -> None:
    calls = [{"type": "server_tool_use", "id": f"s{n}", "name": "web_search", "input": {"query": "x"}} for n in (1, 2)]
    results = [{**result, "tool_use_id": f"s{n}"} for n in (1, 2)]

    _, asking, first, second, said, _ = messages(USER, assistant(text("Hm."), *calls, *results, text("Yes.")), USER)

    assert (asking["content"], [call["id"] for call in asking["tool_calls"]]) == ("Hm.", ["s1", "s2"])
    assert first == {"role": "tool", "tool_call_id": "s1", "content": shown}
    assert second["tool_call_id"] == "s2"
    assert said == {"role": "assistant", "content": "Yes."}


def test_server_call_without_result_and_result_without_call_are_left_out() -> None:
    call = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}
    result = {"type": "web_search_tool_result", "tool_use_id": "s2", "content": []}

    found = conversation({"messages": [USER, assistant(call, result, text("Yes.")), USER]})

    assert found.messages[1] == {"role": "assistant", "content": "Yes."}
    assert found.ignored == {"messages.server_tool_use"}


def test_rejects_unknown_blocks_of_the_assistant() -> None:
    with pytest.raises(InvalidRequestError, match="unsupported type 'hologram'"):
        messages(USER, assistant({"type": "hologram"}), USER)


def test_message_that_only_changes_tools_is_no_turn() -> None:
    change = {"role": "system", "content": [{"type": "tool_removal", "tool": {"type": "tool_reference", "name": "f"}}]}

    assert messages(USER, change, USER) == messages(USER, USER)

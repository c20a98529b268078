"""The order of messages that strict chat templates accept."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.canonical import Json
from berth.dialects.requests.turns import as_user_text, in_order, is_empty, joined, with_results_after_calls
from tests.dialects.strict_template import problem_of, texts_of
from tests.fakes.cpu_time import cpu_s


def system(text: Any) -> Json:
    return {"role": "system", "content": text}


def developer(text: Any) -> Json:
    return {"role": "developer", "content": text}


def user(text: Any, **more: Any) -> Json:
    return {"role": "user", "content": text, **more}


def assistant(text: Any = None, *calls: str, **more: Any) -> Json:
    made = [{"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}} for one in calls]
    return {"role": "assistant", "content": text, **({"tool_calls": made} if made else {}), **more}


def tool(call_id: str, text: str = "result") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def part(text: str) -> Json:
    return {"type": "text", "text": text}


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,x"}}
MARKED = "<system>\nLater\n</system>"
ORDERED: dict[str, tuple[list[Json], list[Json]]] = {
    "developer": ([developer("D"), user("A")], [system("D"), user("A")]),
    "instructions together": (
        [system("S"), developer("D"), system([part("P")]), user("A")],
        [system([part("S"), part("D"), part("P")]), user("A")],
    ),
    "texts of instructions": ([system("S"), developer("D"), user("A")], [system("S\n\nD"), user("A")]),
    "empty instructions": ([system(""), user("A")], [user("A")]),
    "later instructions": (
        [system("S"), user("A"), assistant("B"), system("Later"), user("C")],
        [system("S"), user("A"), assistant("B"), user(f"{MARKED}\n\nC")],
    ),
    "later instructions of a developer, in parts": (
        [user("A"), developer([part("Lat"), part("er")])],
        [user("A\n\n<system>\nLat\ner\n</system>")],
    ),
    "instructions after the assistant": (
        [assistant("B"), system("Later")],
        [assistant("B"), user(MARKED)],
    ),
    "an image in instructions": (
        [user("A"), assistant("B"), system([part("Later"), IMAGE])],
        [user("A"), assistant("B"), user([part(MARKED), IMAGE])],
    ),
    "two of the user": ([user("A"), user("B")], [user("A\n\nB")]),
    "parts of the user": ([user("A"), user([part("B"), IMAGE])], [user([part("A"), part("B"), IMAGE])]),
    "users of two names": ([user("A", name="x"), user("B", name="y")], [user("A", name="x"), user("B", name="y")]),
    "users of one name": ([user("A", name="x"), user("B", name="x")], [user("A\n\nB", name="x")]),
    "an empty turn": ([user("A"), assistant(""), user("B")], [user("A\n\nB")]),
    "a turn of nothing": ([user("A"), {"role": "assistant"}, user("B")], [user("A\n\nB")]),
    "an empty list": ([user("A"), assistant([]), user("B")], [user("A\n\nB")]),
    "an empty user": ([user("A"), assistant("B"), user(""), assistant("C")], [user("A"), assistant("B\n\nC")]),
    "the last one, empty": ([user("A"), assistant("B"), user("")], [user("A"), assistant("B"), user("")]),
    "only one, empty": ([user("")], [user("")]),
    "two of the assistant": (
        [user("A"), assistant("B", reasoning="r"), assistant("C", "c1", reasoning="s"), tool("c1")],
        [user("A"), assistant("B\n\nC", "c1", reasoning="r\ns"), tool("c1")],
    ),
    "calls of two messages": (
        [user("A"), assistant(None, "c1"), assistant(None, "c2"), tool("c2", "2"), tool("c1", "1")],
        [user("A"), assistant(None, "c1"), tool("c1", "1"), assistant(None, "c2"), tool("c2", "2")],
    ),
    "a result after the user": (
        [user("A"), assistant(None, "c1"), user("B"), tool("c1")],
        [user("A"), assistant(None, "c1"), tool("c1"), user("B")],
    ),
    "a result after the next turn": (
        [user("A"), assistant(None, "c1", "c2"), tool("c2"), assistant("B"), user("C"), tool("c1")],
        [user("A"), assistant(None, "c1", "c2"), tool("c2"), tool("c1"), assistant("B"), user("C")],
    ),
    "a refusal": (
        [user("A"), assistant(None, refusal="no"), user("B")],
        [user("A"), assistant(None, refusal="no"), user("B")],
    ),
    "only reasoning": (
        [user("A"), assistant("", reasoning="r"), user("B")],
        [user("A"), assistant("", reasoning="r"), user("B")],
    ),
    "a result of no known call": ([user("A"), tool("c9"), user("B")], [user("A"), tool("c9"), user("B")]),
    "only a result": ([tool("c9")], [tool("c9")]),
}


@pytest.mark.parametrize(("given_messages", "expected"), ORDERED.values(), ids=ORDERED)
def test_puts_messages_in_order(given_messages: list[Json], expected: list[Json]) -> None:
    before = repr(given_messages)
    found = in_order(given_messages)

    assert found == expected
    assert in_order(found) == found
    assert repr(given_messages) == before  # the request is not edited


@pytest.mark.parametrize(
    "messages",
    [
        [user("A")],
        [system("S"), user("A"), assistant("B"), user("C")],
        [system("S"), user([part("A"), IMAGE]), assistant(None, "c1", "c2"), tool("c1"), tool("c2"), assistant("B")],
        [assistant("Welcome"), user("A")],
        [user("A"), assistant("", "c1"), tool("c1"), user("B")],
        [],
    ],
)
def test_messages_in_order_stay_the_same_list(messages: list[Json]) -> None:
    assert in_order(messages) is messages


def test_results_follow_their_calls() -> None:
    messages = [assistant(None, "c1"), user("A"), assistant(None, "c2"), tool("c1"), tool("c2"), tool("c9")]

    order = [message.get("tool_call_id") or message["role"] for message in with_results_after_calls(messages)]

    assert order == ["assistant", "c1", "user", "assistant", "c2", "c9"]


@pytest.mark.parametrize("content", ["", None, [], [part("")]])
def test_empty_messages(content: Any) -> None:
    assert is_empty(user(content))
    assert is_empty(assistant(content, name="x"))
    assert not is_empty(assistant(content, reasoning="r"))
    assert not is_empty(assistant(content, "c1"))
    assert not is_empty({**tool("c1"), "content": content})


def test_instructions_become_text() -> None:
    assert as_user_text(system("S")) == user("<system>\nS\n</system>")
    assert as_user_text(developer([IMAGE, part("S")])) == user([part("<system>\nS\n</system>"), IMAGE])


def test_joins_contents() -> None:
    assert joined([user("A"), user([IMAGE]), user("")]) == user([part("A"), IMAGE])
    assert joined([assistant(None, "c1"), assistant("B", "c2")]) == assistant("B", "c1", "c2")


MESSAGES = st.one_of(
    st.builds(system, st.sampled_from(["", "S1", "S2", [part("S3")]])),
    st.builds(developer, st.sampled_from(["D1", [part("D2"), IMAGE]])),
    st.builds(user, st.sampled_from(["", "U1", "U2", [], [part("")], [part("U3"), IMAGE]])),
    st.builds(assistant, st.sampled_from([None, "", "A1", [part("A2")]])),
    st.builds(
        lambda text, calls: assistant(text, *calls),
        st.sampled_from([None, "A3"]),
        st.lists(st.sampled_from(["c1", "c2", "c3"]), unique=True),
    ),
    st.builds(tool, st.sampled_from(["c1", "c2", "c3", "c4"])),
)


@given(st.lists(MESSAGES, min_size=1, max_size=12))
def test_any_conversation_is_accepted_by_a_strict_template(messages: list[Json]) -> None:
    found = in_order(messages)

    assert problem_of(found) is None, found
    assert sorted(texts_of(found)) == sorted(texts_of(messages))  # no text is lost, and none comes twice
    assert in_order(found) == found


@pytest.mark.unmeasured  # it measures time
def test_cost_is_linear() -> None:
    def seconds(messages: list[Json]) -> float:
        return cpu_s(lambda: in_order(messages))

    for message in (user("A"), system("S"), assistant("B", "c1"), tool("c1"), assistant("")):
        assert seconds([message] * 40_000) < 2.5 * seconds([message] * 20_000) + 0.02

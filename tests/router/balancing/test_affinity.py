"""Where conversations belong, and that they stay there."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from berth.canonical import InferenceRequest, Operation
from berth.plan import Standby
from berth.router.balancing import affinity
from tests.fakes.router import make_plan, replica, route

NAMES = ["a", "b", "c", "d"]


def session(body: dict[str, Any], operation: Operation = Operation.CHAT, given: bytes | None = None) -> bytes:
    headers = {} if given is None else {b"x-session-id": given}
    return affinity.session(headers, InferenceRequest(operation=operation, model="m", body=body))


def chat(*texts: Any) -> dict[str, Any]:
    roles = ("system", "user", "assistant", "user")
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}


def firsts(names: list[str], shares: list[float] | None = None) -> list[str]:
    """Who wins each of many conversations."""
    draws = (affinity.ranked(f"{number:016}".encode(), names, shares or [1.0] * len(names)) for number in range(4000))
    return [names[ranked[0]] for ranked in draws]


def test_session_stays_the_same_as_the_conversation_grows() -> None:
    begins = chat("be kind", "hello")
    assert session(begins) == session(chat("be kind", "hello", "hi", "more"))
    assert len(session(begins)) == 16


@pytest.mark.parametrize("name", [b"x-session-id", b"x-claude-code-session-id", b"session-id"])
def test_session_comes_from_the_clients_header(name: bytes) -> None:
    requests = [InferenceRequest(operation=Operation.CHAT, model="m", body=chat(text)) for text in ("a", "b")]

    assert len({affinity.session({name: b"s"}, request) for request in requests}) == 1
    assert len({affinity.session({}, request) for request in requests}) == 2


@pytest.mark.parametrize("other", [chat("be kind", "hallo"), chat("be rude", "hello"), chat("be kindh", "ello")])
def test_different_beginnings_are_different_sessions(other: dict[str, Any]) -> None:
    assert session(chat("be kind", "hello")) != session(other)


def test_content_parts_count_by_their_text() -> None:
    parts = [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    assert session(chat("be kind", parts)) == session(chat("be kind", "hello"))
    assert session({"messages": [{"role": "assistant"}]})
    assert session(chat("\ud800", "x"))


@pytest.mark.parametrize(
    ("one", "other"),
    [("x" * 256 + "a", "x" * 256 + "b"), ([1] * 256 + [2], [1] * 256 + [3]), (["x", "y"], ["x", "z"])],
)
def test_session_of_completion_is_the_beginning_of_its_prompt(one: Any, other: Any) -> None:
    assert session({"prompt": one}, Operation.COMPLETION) == session({"prompt": other}, Operation.COMPLETION)
    assert session({"prompt": one[:1]}, Operation.COMPLETION) != session({"prompt": "else"}, Operation.COMPLETION)


def test_session_header_takes_precedence() -> None:
    assert session(chat("a", "b"), given=b"alice") == session(chat("c", "d"), given=b"alice")
    assert session(chat("a", "b"), given=b"alice") != session(chat("a", "b"), given=b"bob")


def test_embeddings_have_no_session_without_header() -> None:
    assert session({"input": "x"}, Operation.EMBEDDING) == b""
    assert session({"input": "x"}, Operation.EMBEDDING, given=b"alice")


def test_sessions_spread_by_share() -> None:
    even = Counter(firsts(NAMES))
    assert all(850 < even[name] < 1150 for name in NAMES)

    weighted = Counter(firsts(["a", "b"], [3.0, 1.0]))
    assert 2850 < weighted["a"] < 3150


def test_removing_a_replica_moves_only_its_sessions() -> None:
    before, after = firsts(NAMES), firsts(NAMES[:3])
    assert {now for was, now in zip(before, after, strict=True) if was == "d"} == set(NAMES[:3])
    assert all(now == was for was, now in zip(before, after, strict=True) if was != "d")


def test_conversations_stay_where_several_replicas_serve_at_once() -> None:
    replicas = [replica(name, "http://127.0.0.1:1") for name in ("one-a", "hot-a", "hot-b", "cold-a", "cold-b")]
    routes = [
        route("one", ["one-a"], standby=Standby.HOT),
        route("hot", ["hot-a", "hot-b"], standby=Standby.HOT),
        route("cold", ["cold-a", "cold-b"], standby=Standby.COLD),
    ]
    plan = make_plan("/run/berth", replicas, routes)

    assert affinity.models(plan) == {"hot"}
    assert affinity.models(replace(plan, affinity=False)) == set()

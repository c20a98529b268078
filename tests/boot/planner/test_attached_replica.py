"""The replicas that attached servers become, and what the plan says of them."""

from dataclasses import replace
from typing import Any

import pytest

from berth.boot.config.model_spec import EngineSpec, ModelSpec
from berth.boot.planner.attached_replica import address, attached_replica, attached_warnings
from berth.boot.planner.resolve import ResolvedModel
from berth.dialects.attached.detection import Discovery
from berth.plan import DialectName, EngineName, Replica, Task

D = DialectName
FOUND = Discovery(dialect=D.LLAMACPP, names=("theirs",), context=2048, concurrency=2, weights="box /m.gguf")


def entry(url: str = "http://h:1", **fields: Any) -> EngineSpec:
    return EngineSpec(engine=EngineName.REMOTE, url=url, **fields)


def replica(found: Discovery, name: str = "m-attached", *, task: Task = Task.GENERATE, **fields: Any) -> Replica:
    given = entry(**fields)
    spec = ModelSpec(name="m", source="http://h:1", engines=(given,))
    model = ResolvedModel(spec=spec, entries=spec.engines, reason="", info=None, task=task)
    return attached_replica(model, given, name, found)


@pytest.mark.parametrize(
    ("url", "dialect", "expected"),
    [
        ("http://h:1", None, ("http://h:1", ("/v1", ""))),
        ("http://h:1", D.INFINITY, ("http://h:1", ("", "/v1"))),
        ("http://h:1/v1", None, ("http://h:1", ("/v1",))),
        ("http://h:1/v1", D.INFINITY, ("http://h:1", ("/v1",))),
        ("http://h/team/v1", None, ("http://h/team", ("/v1",))),
        ("http://h/api/v3", None, ("http://h/api/v3", ("", "/v1"))),
    ],
)
def test_base_url_says_where_the_api_may_be(url: str, dialect: DialectName | None, expected: Any) -> None:
    found = address(entry(url, dialect=dialect, api_key="k"), "m")
    assert (found.url, found.api_paths) == expected
    assert (found.name, found.api_key) == ("m", "k")


def test_server_that_answers_is_what_it_says() -> None:
    known = replica(FOUND)
    assert (known.dialect, known.served_name, known.context, known.concurrency) == (D.LLAMACPP, "theirs", 2048, 2)
    assert (known.ready.path, known.unreached) == ("/health", False)
    assert known.reason == "attached by its URL, which says what it is"


def test_configured_dialect_stays() -> None:
    known = replica(FOUND, dialect=D.OPENAI, remote_name="mine")
    assert (known.dialect, known.served_name, known.context) == (D.OPENAI, "mine", 2048)
    assert known.reason == "attached by its URL"


def test_server_that_does_not_answer_is_asked_later() -> None:
    unknown = replica(Discovery(reached=False))
    assert (unknown.dialect, unknown.served_name, unknown.detects, unknown.unreached) == (D.OPENAI, "m", True, True)
    assert "does not answer now" in unknown.reason
    assert replica(Discovery(reached=False), dialect=D.LLAMACPP_PYTHON).concurrency == 1


def warnings(*found: Discovery, **fields: Any) -> str:
    names = [f"m-attached-{number}" for number in range(len(found))]
    replicas = [replica(one, name, **fields) for one, name in zip(found, names, strict=True)]
    return "\n".join(attached_warnings(replicas, dict(zip(names, found, strict=True))))


def test_unknown_name_is_reported_with_those_that_there_are() -> None:
    several = replace(FOUND, names=tuple("abcdefghij"))
    assert "the server has no 'm'; name one as `model`: a, b, c, d, e, f, g, h ..." in warnings(several)
    assert warnings(replace(FOUND, names=("m", "n"))) == ""
    assert warnings(several, remote_name="b") == ""


def test_ollama_without_a_context_is_reported() -> None:
    assert "set `context`" in warnings(Discovery(dialect=D.OLLAMA))
    assert warnings(Discovery(dialect=D.OLLAMA, context=8192)) == ""


def test_streams_that_will_not_be_continued_are_reported() -> None:
    assert warnings(FOUND, FOUND) == ""
    assert warnings(Discovery(), Discovery(), weights="same") == ""
    assert warnings(Discovery(), Discovery(), task=Task.EMBED) == ""
    assert warnings(Discovery(), Discovery()).count("its streams are not continued by another engine") == 2

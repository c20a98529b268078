"""What a request costs that is compared with rules, and the order of the replicas behind one."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from berth.apis.base import Immediate
from berth.boot.config.routes import parse_routes
from berth.canonical import InferenceRequest, Operation
from berth.plan import DialectName, Keys, ModelRoute, Plan, RoutingRule, Standby
from berth.plan.keys import OPEN
from berth.router.balancing.model_catalog import ModelCatalog
from berth.router.balancing.rules import Rules, parameters, prompt_tokens
from berth.router.balancing.upstreams import Upstreams
from berth.state import ReplicaStatus
from tests.fakes.router import make_plan, publish, replica, replica_state, route

REPLICAS = [
    replica("chat-a", "http://127.0.0.1:1"),
    replica("chat-b", "http://127.0.0.1:2", dialect=DialectName.SGLANG),
    replica("chat-c", "http://127.0.0.1:3"),
    replica("chat-d", "http://127.0.0.1:4", dialect=DialectName.OLLAMA),
]
ROUTES = [route("chat", [one.name for one in REPLICAS], standby=Standby.HOT)]
CHAT = InferenceRequest(
    operation=Operation.CHAT, model="chat", body={"messages": [{"role": "user", "content": "Hello"}] * 20}
)


class Asked:
    rule: RoutingRule | None = None

    def __init__(self, prefix: str = "") -> None:
        self.prefix, self.api, self.headers = prefix, Chat(), {b"user-agent": b"curl/8"}


class Chat:
    operation = Operation.CHAT


def rules_of(text: str, run_dir: str = "/run") -> tuple[Plan, Rules]:
    plan = replace(make_plan(run_dir, REPLICAS, ROUTES), rules=parse_routes(text))
    return plan, Rules(plan, ModelCatalog(plan))


def calls(work: Callable[[], object]) -> list[str]:
    """The functions of Berth that are entered."""
    entered: list[str] = []

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call" and "/berth/" in frame.f_code.co_filename and frame.f_code.co_name[0] != "<":
            entered.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return entered


TWENTY = [
    ("path: /p{n}", []),
    ("key: k{n}", []),
    ("alias: a{n}, model: chat", []),
    ("has: tools, not: [image, stream]", ["parameters", "parts_of"]),
    ("prompt_tokens: '>={n}000'", ["prompt_tokens", "parts_of"]),
    ("has: tools", ["parameters"]),
    ("header: {{x: 'y{n}'}}", []),
    ("path: /p{n}, header: {{x: y}}, has: tools, prompt_tokens: '>=9'", ["parameters"]),
]


@pytest.mark.interpreted
@pytest.mark.parametrize(("conditions", "more"), TWENTY)
def test_twenty_rules_cost_no_more_calls_than_one(conditions: str, more: list[str]) -> None:
    text = ", ".join(f"{{{conditions.format(n=number)}, priority: low, name: r{number}}}" for number in range(1, 21))
    _, rules = rules_of(f"[{text}]")
    asked: Any = Asked()
    rules.decide(asked, CHAT, OPEN)  # finds out what is possible

    entered = calls(lambda: rules.decide(asked, CHAT, OPEN))

    assert sorted(entered) == sorted(["decide", "match", "possible", *more, "resolve"])
    assert asked.rule is None


def test_what_is_possible_is_found_out_once() -> None:
    """And not for each model or key that a client may think of."""
    text = "[{path: /p, priority: low}, {key: k, priority: low}, {alias: a, model: chat}, {has: tools, priority: low}]"
    _, rules = rules_of(text)
    asked: Any = Asked()

    found = [
        rules.possible(rules.all, asked, structs.replace(CHAT, model=f"m{n}"), replace(OPEN, name=f"k{n}"))
        for n in range(9)
    ]
    tools = rules.possible(rules.all, asked, structs.replace(CHAT, body={**CHAT.body, "tools": [{}]}), OPEN)
    named = rules.possible(rules.all, asked, structs.replace(CHAT, model="a"), replace(OPEN, name="k"))

    assert found == [()] * 9
    assert [[one.rule.name for one in some] for some in (tools, named)] == [["4"], ["2", "3"]]
    assert len(rules._possible) == 3


@pytest.mark.interpreted
def test_a_rule_that_matches_costs_no_more_after_the_first_time() -> None:
    _, rules = rules_of("[{path: /batch, engine: sglang, only: true, priority: low}]")
    asked: Any = Asked("/batch")
    first = rules.decide(asked, CHAT, OPEN)

    entered = calls(lambda: rules.decide(asked, CHAT, OPEN))

    assert entered == ["decide", "match", "possible", "model_of", "resolve", "resolve"]
    assert rules.decide(asked, CHAT, OPEN) is first
    assert (first.engine, first.only, first.replicas) == ("sglang", True, ("chat-b",))


def test_a_route_that_changed_is_directed_again() -> None:
    plan = replace(make_plan("/run", REPLICAS, ROUTES), rules=parse_routes("[{engine: sglang}]"))
    catalog = ModelCatalog(plan)
    rules, asked = Rules(plan, catalog), Asked()
    before = rules.decide(asked, CHAT, OPEN)  # type: ignore[arg-type] # enough of one

    catalog.set_context("chat", 4096)

    after = rules.decide(asked, CHAT, OPEN)  # type: ignore[arg-type] # enough of one
    assert (before.context, after.context, after.engine) == (None, 4096, "sglang")


@pytest.mark.parametrize(
    ("engine", "only", "order"),
    [
        ("", False, "abcd"),
        ("sglang", False, "bacd"),
        ("vllm", False, "acbd"),
        ("vllm:vllm", True, "ac"),
        ("chat-c", False, "cabd"),
        ("chat-d", True, "d"),
        ("ollama", True, "d"),
    ],
)
def test_the_replicas_that_a_rule_names_are_first(run_dir: str, engine: str, only: bool, order: str) -> None:
    plan = make_plan(run_dir, REPLICAS, ROUTES)
    publish(plan, *(replica_state(one.name, ReplicaStatus.READY) for one in REPLICAS))
    upstreams = Upstreams(plan, Keys())
    upstreams.poll()
    directed: ModelRoute = replace(plan.models[0], engine=engine, only=only)

    assert [one.replica.name for one in upstreams.ready(directed)] == [f"chat-{letter}" for letter in order]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, set()),
        ({"tools": [], "response_format": None, "logprobs": None, "messages": []}, set()),
        ({"functions": [{}]}, {"tools"}),
        ({"response_format": {"type": "json_schema"}}, {"response_format"}),
        ({"structured_outputs": {"regex": "a"}}, {"response_format"}),
        ({"logprobs": 0}, {"logprobs"}),
        ({"prompt_logprobs": 1}, {"logprobs"}),
        ({"messages": [{"content": [{"type": "text"}, {"type": "image_url"}]}]}, {"image"}),
        ({"messages": [{"content": [{"type": "input_audio"}]}]}, {"audio"}),
        ({"messages": [{"role": "assistant"}]}, set()),
        ({"messages": 7, "tools": 0, "response_format": "x"}, set()),
        ({"messages": [7, None, {"content": [7, None, {"type": None}, {"type": 7}, {}]}]}, set()),
    ],
)
def test_finds_the_parameters_of_a_request(body: dict[str, Any], found: set[str]) -> None:
    request = InferenceRequest(operation=Operation.CHAT, model="chat", body=body)

    assert parameters(request) == found
    assert parameters(InferenceRequest(operation=Operation.CHAT, model="m", body=body, stream=True)) == {
        *found,
        "stream",
    }


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": "x" * 40}, 10),
        ({"prompt": [1, 2, 3]}, 3),
        ({"prompt": [[1, 2], [3]]}, 3),
        ({"prompt": ["xxxx", "xxxxxxxx"]}, 3),
        ({"input": ["xxxx"]}, 1),
        ({"query": "xxxx", "documents": ["xxxx", "xxxx"]}, 3),
        ({"text_1": "xxxx", "text_2": ["xxxx"]}, 2),
        ({"tokens": [1, 2]}, 2),
        ({"messages": [{"content": "ж" * 4}, {"content": None}, {"content": [{"text": "xxxx"}, {"x": 1}]}]}, 3),
        ({"prompt": None}, 0),
        ({"prompt": {"text": "xxxx"}, "input": 0.5, "messages": 7}, 1),
        ({"messages": [7, None, {"content": [7, None, {"text": 7}, {}]}], "documents": [{"text": "xxxx"}]}, 3),
    ],
)
def test_estimates_the_length_of_a_prompt(body: dict[str, Any], tokens: int) -> None:
    assert prompt_tokens(InferenceRequest(operation=Operation.CHAT, model="chat", body=body)) == tokens


def test_a_request_without_an_engine_has_neither() -> None:
    request = Immediate(model="chat", body=b"{}")

    assert (parameters(request), prompt_tokens(request)) == (frozenset(), 0)

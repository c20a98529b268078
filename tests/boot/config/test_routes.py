"""BERTH_ROUTES by itself: what it may say, and what is wrong with what it says."""

import json

import pytest

from berth.boot.config.routes import EXAMPLE, HEADER, SINGLE, parse_routes
from berth.errors import ConfigError
from berth.plan import RoutingRule

RULES = [
    (
        "{path: /batch, engine: vllm, priority: low}",
        RoutingRule(name="1", path="/batch", engine="vllm", priority="low"),
    ),
    ("{path: /team/batch, model: m}", RoutingRule(name="1", path="/team/batch", model="m")),
    ("{has: tools, engine: sglang, only: yes}", RoutingRule(name="1", has=("tools",), engine="sglang", only=True)),
    (
        "{has: [tools, stream], not: image, model: m}",
        RoutingRule(name="1", has=("tools", "stream"), lacks=("image",), model="m"),
    ),
    ("{key: 'nightly, ci', model: m}", RoutingRule(name="1", keys=("nightly", "ci"), model="m")),
    (
        "{header: {User-Agent: 'curl/*', x: y}, model: m}",
        RoutingRule(name="1", headers={"user-agent": "curl/*", "x": "y"}, model="m"),
    ),
    ("{prompt_tokens: '>=16k', model: m}", RoutingRule(name="1", least_tokens=16000, model="m")),
    ("{prompt_tokens: '>100 <= 200', model: m}", RoutingRule(name="1", least_tokens=101, most_tokens=200, model="m")),
    ("{prompt_tokens: <8, model: m}", RoutingRule(name="1", most_tokens=7, model="m")),
    ("{prompt_tokens: '<8 <4', model: m}", RoutingRule(name="1", most_tokens=3, model="m")),
    ("{alias: [fast, fast], name: quick, model: m}", RoutingRule(name="quick", aliases=("fast",), model="m")),
    ("{priority: high}", RoutingRule(name="1", priority="high")),
]


@pytest.mark.parametrize(("text", "rule"), RULES)
def test_reads_a_rule(text: str, rule: RoutingRule) -> None:
    assert parse_routes(f"[{text}]") == (rule,)
    assert parse_routes(f"- {text}") == (rule,)


def test_reads_json_and_names_rules_by_their_place() -> None:
    text = json.dumps([{"path": "/a", "engine": "vllm"}, {"has": ["stream"], "priority": "low"}])

    assert [(rule.name, rule.conditions, rule.decision) for rule in parse_routes(text)] == [
        ("1", {"path": "/a"}, {"engine": "vllm"}),
        ("2", {"has": "stream"}, {"priority": "low"}),
    ]


def test_shows_what_a_rule_says() -> None:
    text = """[{name: n, path: /p, has: tools, not: [image, audio], key: [a, b], header: {x-a: "1*"},
               prompt_tokens: ">=5 <9", alias: [f, g], engine: vllm, only: true, model: m, priority: low}]"""
    (rule,) = parse_routes(text)

    assert rule.conditions == {
        "path": "/p",
        "has": "tools",
        "not": "image, audio",
        "key": "a, b",
        "header": "x-a: 1*",
        "prompt_tokens": ">=5 <=8",
        "alias": "f, g",
    }
    assert rule.decision == {"engine": "vllm", "only": "true", "model": "m", "priority": "low"}


PROBLEMS = [
    ("{", "", "not YAML"),
    ("{path: /a, engine: vllm}", "", "expected a list of rules"),
    ("[3]", "1", "expected a mapping of fields"),
    ("[{pat: /a, priority: low}]", "1.pat", "unknown field (did you mean path)"),
    ("[{path: batch, priority: low}]", "1.path", "not a path such as /batch"),
    ("[{path: /batch/, priority: low}]", "1.path", "not a path such as /batch"),
    ("[{path: /v1/chat, priority: low}]", "1.path", "Berth has paths of its own below /v1"),
    ("[{has: tool, priority: low}]", "1.has[0]", "unknown value (did you mean tools)"),
    ("[{has: [], priority: low}]", "1.has", "nothing given"),
    ("[{has: {a: b}, priority: low}]", "1.has", "expected a list"),
    ("[{has: tools, not: tools, priority: low}]", "1.not", "also in `has`, so the rule can never match"),
    ("[{prompt_tokens: 16000, priority: low}]", "1.prompt_tokens", "not a comparison"),
    ("[{prompt_tokens: '>5 x', priority: low}]", "1.prompt_tokens", "not a comparison"),
    ("[{prompt_tokens: '>=1.5', priority: low}]", "1.prompt_tokens", "not a whole number of tokens"),
    ("[{prompt_tokens: '>5 <6', priority: low}]", "1.prompt_tokens", "no number of tokens is in this range"),
    ("[{header: user-agent, priority: low}]", "1.header", "expected headers and their values"),
    ("[{header: {}, priority: low}]", "1.header", "expected headers and their values"),
    ("[{header: {x y: z}, priority: low}]", "1.header.x y", "not the name of a header"),
    ("[{header: {x: [1]}, priority: low}]", "1.header.x", "expected a single value"),
    ("[{header: {Authorization: Bearer s}, priority: low}]", "1.header.Authorization", "it holds a secret"),
    ("[{priority: urgent}]", "1.priority", "unknown value"),
    ("[{only: true, priority: low}]", "1.only", "no engine is given"),
    ("[{only: maybe, engine: vllm}]", "1.only", "not a boolean"),
    ("[{path: /a}]", "1", "it decides nothing"),
    ("[{name: A b, priority: low}]", "1.name", "not a name of lower-case letters"),
    ("[{name: a, priority: low}, {name: a, path: /a, priority: low}]", "a.name", "another rule has this name"),
    ("[{priority: low, name: '2'}, {path: /a, priority: low}]", "2.name", "another rule has this name"),
    (f"[{', '.join(['{priority: low}'] * 101)}]", "", "too many"),
]


@pytest.mark.parametrize(("text", "place", "reason"), PROBLEMS)
def test_reports_what_is_wrong(text: str, place: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_routes(text)

    assert [
        problem
        for problem in caught.value.problems
        if problem.variable == (f"BERTH_ROUTES: {place}" if place else "BERTH_ROUTES") and reason in problem.reason
    ], caught.value
    assert all(problem.allowed and problem.example for problem in caught.value.problems)


def test_reports_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_routes("[{path: x, has: y, priority: z}, {only: true}]")

    assert len(caught.value.problems) == 6


def test_a_secret_of_a_header_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_routes("[{header: {x-api-key: sk-very-secret}, priority: low}]")

    assert "sk-very-secret" not in str(caught.value)


@pytest.mark.parametrize("example", [EXAMPLE, *(f"- {{{rule.example}}}" for rule in (HEADER, *SINGLE.values()))])
def test_the_examples_are_valid(example: str) -> None:
    rest = "" if "engine" in example else ", engine: vllm"

    assert parse_routes(f"{example[:-1]}{rest}}}")

"""The rules of BERTH_ROUTES, compared with models, keys and each other, as a start does it."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from berth.boot.config.route_checks import covers
from berth.boot.config.settings import load
from berth.boot.planner.build import make_plan as planned
from berth.canonical import InferenceRequest, Operation
from berth.errors import ConfigError
from berth.plan import EngineName, Plan, RoutingRule, Standby
from berth.router.balancing.model_catalog import ModelCatalog
from berth.router.balancing.rules import Rules
from tests.fakes.api_keys import api_key
from tests.fakes.machine import engine, gpus, host_info
from tests.fakes.router import make_plan, replica, route

MODELS = """
chat: {source: any, engines: [sim:vllm, sim:sglang], standby: hot, aliases: [gpt-4o-mini], context: 8192}
coder: {source: any, engines: [sim:vllm, sim:sglang], context: 4096}
box: {engines: [sim, {url: "http://127.0.0.1:1/v1", dialect: ollama}], source: any, context: 4096}
"""
KEYS = "alice: {key: key-of-alice-0123456789, models: [chat]}\nci: {key: key-of-ci-0123456789012, priority: normal}"


def plan_of(rules: str, keys: str = KEYS) -> Plan:
    environ = {"BERTH_MODELS": MODELS, "BERTH_ROUTES": f"[{rules}]", "BERTH_API_KEYS": keys}
    return planned(load(environ, cpus=1), host_info())


@pytest.mark.parametrize(
    "rules",
    [
        "{path: /batch, engine: sim:sglang, priority: low}, {path: /structured, engine: sim:vllm, only: true}",
        "{alias: gpt-4o-mini, engine: sim:sglang}, {alias: chat, engine: chat-sim}",
        "{alias: fast, path: /a, priority: low, key: ci}, {alias: fast, model: chat, engine: chat-sim-2}",
        "{engine: ollama}, {model: box, engine: box-attached}",
        "{key: alice, model: chat}, {key: ci, priority: normal}",
        "{prompt_tokens: '>=4096', engine: sim}",
        "{engine: sim:vllm, model: coder}",
        "{header: {x: ab}, priority: low}, {priority: high}",
        "{header: {x: 'a*'}, priority: low}, {header: {x: '*b'}, priority: high}",
        "{engine: sim:sglang}, {model: chat, path: /a}",
    ],
)
def test_accepts_rules_that_can_be_kept(rules: str) -> None:
    plan_of(rules)


PROBLEMS = [
    ("{model: chta, priority: low}", "1.model", "chta", "unknown model (did you mean chat)", "chat, gpt-4o-mini"),
    ("{alias: fast, priority: low}", "1.alias", "fast", "unknown model, and the rule has no `model` for it", "chat"),
    ("{key: alise, priority: low}", "1.key", "alise", "unknown key (did you mean alice)", "alice, ci"),
    ("{engine: vllm}", "1.engine", "vllm", "it serves no model", "sim"),
    ("{model: chat, engine: trtllm}", "1.engine", "trtllm", "it does not serve 'chat'", "chat-sim, chat-sim-2"),
    ("{alias: gpt-4o-mini, engine: ollama}", "1.engine", "ollama", "it does not serve 'chat'", "sim:sglang"),
    (
        "{model: coder, engine: sim:sglang}",
        "1.engine",
        "sim:sglang",
        "'coder-sim-2' serves 'coder' only after",
        "standby: hot",
    ),
    ("{key: alice, model: coder}", "1.model", "coder", "the key 'alice' may not use the model 'coder'", "chat"),
    ("{key: alice, alias: coder, priority: low}", "1.alias", "coder", "may not use the model 'coder'", "chat"),
    ("{key: ci, priority: high}", "1.priority", "high", "at most the priority 'normal'", "normal, low"),
    (
        "{prompt_tokens: '>=4096', model: coder}",
        "1.prompt_tokens",
        ">=4096",
        "context of 4096 tokens",
        "less than 4096",
    ),
    (
        "{engine: sim}, {path: /a, engine: sim:sglang}",
        "2",
        "path: /a",
        "match the rule '1', which comes before",
        "first",
    ),
    (
        "{header: {x: 'a*'}, model: chat}, {header: {x: AB}, priority: low}",
        "2",
        "header: x: AB",
        "the rule '1'",
        "first",
    ),
    ("{engine: sim:sglang}, {alias: gpt-4o-mini, priority: low}", "2", "alias: gpt-4o-mini", "the rule '1'", "first"),
    ("{priority: low}, {name: x, model: chat}", "x", "", "match the rule '1'", "first"),
]


@pytest.mark.parametrize(("rules", "place", "value", "reason", "allowed"), PROBLEMS)
def test_reports_rule_field_value_and_what_is_allowed(
    rules: str, place: str, value: str, reason: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(rules)

    (problem,) = caught.value.problems
    assert (problem.variable, problem.value) == (f"BERTH_ROUTES: {place}", value)
    assert reason in problem.reason
    assert allowed in problem.allowed


def test_a_rule_of_a_key_needs_keys() -> None:
    with pytest.raises(ConfigError, match=r"1\.key='ci': BERTH_API_KEYS is not set"):
        plan_of("{key: ci, priority: low}", keys="")


def test_wrong_keys_are_reported_once() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of("{key: ci, priority: low}", keys="{ci: {kee: x}}")

    assert all(problem.variable.startswith("BERTH_API_KEYS") for problem in caught.value.problems)


def test_a_new_alias_is_one_of_its_model() -> None:
    keys = "alice: {key: key-of-alice-0123456789, models: [fast]}"
    plan = plan_of("{alias: fast, key: alice, model: gpt-4o-mini}, {alias: fast, model: coder, priority: low}", keys)

    aliases = {model.name: model.aliases for model in plan.models}
    assert aliases == {"chat": ("gpt-4o-mini", "fast"), "coder": (), "box": ()}


def test_an_attached_server_that_is_away_may_be_any() -> None:
    models = '{m: {engines: [sim, {url: "http://127.0.0.1:1/v1"}], source: any}}'
    environ = {"BERTH_MODELS": models, "BERTH_ROUTES": "[{engine: ollama, only: true}]"}

    assert planned(load(environ, cpus=1), host_info()).rules[0].engine == "ollama"


def test_real_engines_are_checked_like_simulated_ones() -> None:
    host = host_info(*gpus(1), installed={EngineName.VLLM: engine(), EngineName.SGLANG: engine("sglang", "0.5.14")})
    environ = {"BERTH_MODELS": "chat=Qwen/Qwen3-8B@vllm,sglang", "BERTH_ROUTES": "[{engine: vllm}]"}
    planned(load(environ, cpus=1), host)
    with pytest.raises(ConfigError, match="serves 'chat' only after 'chat-vllm' has failed"):
        planned(load({**environ, "BERTH_ROUTES": "[{engine: sglang}]"}, cpus=1), host)


# Whatever is said to be shadowed is, for every request; what is not said to be is matched by one.

PLAN = make_plan(
    "/run",
    [replica("chat-a", "http://127.0.0.1:1"), replica("chat-b", "http://127.0.0.1:1"), replica("coder-c", "http://x")],
    [route("chat", ["chat-a", "chat-b"], standby=Standby.HOT, aliases=("fast",)), route("coder", ["coder-c"])],
)
rules_of_all_kinds = st.builds(
    RoutingRule,
    name=st.just("1"),
    path=st.sampled_from(["", "/a"]),
    has=st.sampled_from([(), ("tools",), ("tools", "stream")]),
    lacks=st.sampled_from([(), ("stream",)]),
    keys=st.sampled_from([(), ("ci",), ("ci", "bob")]),
    headers=st.sampled_from([{}, {"x": "*"}, {"x": "a*"}, {"x": "ab"}]),
    least_tokens=st.sampled_from([0, 5]),
    most_tokens=st.sampled_from([None, 9]),
    aliases=st.sampled_from([(), ("fast",), ("fast", "coder")]),
    engine=st.sampled_from(["", "chat-a", "coder-c"]),
    priority=st.just("low"),
)
REQUESTS = [
    (prefix, key, header, InferenceRequest(operation=Operation.COMPLETION, model=model, body=body, stream=stream))
    for prefix, key, header, model, tools, stream, tokens in itertools.product(
        ("", "/a"),
        ("ci", "bob", "eve"),
        (b"", b"ab", b"ax", b"b"),
        ("fast", "chat", "coder"),
        (False, True),
        (False, True),
        (4, 6, 10),
    )
    for body in ({"prompt": [1] * tokens, **({"tools": [1]} if tools else {})},)
]


class Asked:
    def __init__(self, prefix: str, header: bytes) -> None:
        self.prefix, self.headers = prefix, ({b"x": header} if header else {})
        self.api = API


class API:
    operation = Operation.COMPLETION


def matched(rule: RoutingRule) -> set[int]:
    plan = replace(PLAN, rules=(rule,))
    rules = Rules(plan, ModelCatalog(plan))
    return {
        place
        for place, (prefix, key, header, request) in enumerate(REQUESTS)
        if rules.match(rules.all, Asked(prefix, header), request, api_key(key, name=key)) is not None  # type: ignore[arg-type] # enough of one
    }


NAMES = RoutingRule(name="1", aliases=("fast", "coder"), priority="low")


@settings(max_examples=60, deadline=None)
@given(rules_of_all_kinds, rules_of_all_kinds)
@example(NAMES, RoutingRule(name="1", engine="coder-c", priority="low"))  # all names of the engine's models
def test_shadowed_is_what_the_router_never_matches(earlier: RoutingRule, later: RoutingRule) -> None:
    routes = {name: one for one in PLAN.models for name in (one.name, *one.aliases)}

    assert not matched(later) or covers(PLAN, earlier, later, routes) == (matched(later) <= matched(earlier))

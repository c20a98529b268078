"""BERTH_MODELS: its two forms, the rules between fields and models, and fuzzing."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.boot.config.models import EngineOptions, EngineSpec, ModelSpec, masked_models, parse_models
from berth.errors import ConfigError
from berth.plan import EngineName, Standby, Task

COMPOSE = """
# as in a compose file
chat:
  source: Qwen/Qwen3-8B
  engines: [vllm, sglang]
  aliases: [gpt-4o-mini]
  gpus: 1
  context: 32768
  standby: hot
  vllm: {args: ["--enable-prefix-caching"], env: {A: 1}}
BAAI/bge-m3:
  task: embed
"""


def problems_of(text: str) -> list[tuple[str, str]]:
    """(place, reason) of every problem, less the variable's name."""
    with pytest.raises(ConfigError) as caught:
        parse_models(text)
    return [
        (problem.variable.removeprefix("BERTH_MODELS").lstrip(": "), problem.reason)
        for problem in caught.value.problems
    ]


def test_short_form_is_split_at_white_space() -> None:
    models = parse_models(" chat=Qwen/Qwen3-8B@vllm,sglang\n\tBAAI/bge-m3 ")
    assert models == (
        ModelSpec(
            name="chat",
            source="Qwen/Qwen3-8B",
            engines=(EngineSpec(engine=EngineName.VLLM), EngineSpec(engine=EngineName.SGLANG)),
        ),
        ModelSpec(name="BAAI/bge-m3", source="BAAI/bge-m3"),
    )


def test_a_mapping_is_yaml() -> None:
    chat, embed = parse_models(COMPOSE)
    assert chat == ModelSpec(
        name="chat",
        source="Qwen/Qwen3-8B",
        engines=(
            EngineSpec(engine=EngineName.VLLM, args=("--enable-prefix-caching",), env={"A": "1"}),
            EngineSpec(engine=EngineName.SGLANG),
        ),
        aliases=("gpt-4o-mini",),
        gpus=1,
        context=32768,
        standby=Standby.HOT,
    )
    assert (embed.source, embed.task) == ("BAAI/bge-m3", Task.EMBED)


def test_json_is_yaml_too() -> None:
    text = json.dumps({"chat": {"source": "Qwen/Qwen3-8B", "context": 8192, "vllm": {"args": ["--x"]}}})
    (chat,) = parse_models(text)
    assert (chat.context, chat.options) == (8192, {EngineName.VLLM: EngineOptions(args=("--x",))})


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("", "", "no model given"),
        (" \n", "", "no model given"),
        ("# nothing", "", "expected a mapping from names to models"),
        ("{}", "", "expected a mapping from names to models"),
        ("- Qwen/Qwen3-8B: {}", "", "expected a mapping from names to models"),
        ("a:\n  b: [", "", "line 2, column 7: not YAML: expected the node content, but found '<stream end>'"),
        ("x" * (2**20 + 1), "", "too long"),
        ("a=x/y a=x/z", "a", "another model, adapter or alias has this name"),
        ("{a: {source: x/y, aliases: [b]}, b: x/z}", "a.aliases[0]", "another model, adapter or alias has this name"),
        ("{a: {source: x/y, aliases: [a]}}", "a.aliases[0]", "another model, adapter or alias has this name"),
        ("{a: {source: x/y, aliases: [c, c]}}", "a.aliases[1]", "another model, adapter or alias has this name"),
        ("{a: {source: ./x, revision: main}}", "a.revision", "only hub models have revisions"),
        ("m=x/y@vllm,vllm", "m.engines[1]", "duplicate engine"),
        ("{m: {engines: [http://a/v1, http://a/v1], standby: hot}}", "m.engines[1]", "duplicate engine"),
        (
            "{m: {engines: [http://a, {url: http://a, share: 2}], standby: hot}}",
            "m.engines[1]",
            "duplicate engine",
        ),
        (
            "{m: {engines: [http://a, {url: http://b, share: 2}]}}",
            "m.engines[1].share",
            "only one engine serves this model at a time",
        ),
        (
            "{m: {source: a/b, adapters: {n: a/lora}}, n: {source: c/d}}",
            "m.adapters.n",
            "another model, adapter or alias has this name",
        ),
        (
            "{m: {source: a/b, adapters: {x: a/lora}, aliases: [x]}}",
            "m.aliases[0]",
            "another model, adapter or alias has this name",
        ),
        (
            "{m: {source: a/b, engines: [vllm, http://a/v1], adapters: {x: a/lora}}}",
            "m.engines[1]",
            "it might respond without the requested adapter",
        ),
        (
            "{m: {engines: ['sim:trtllm'], adapters: {x: a/lora}}}",
            "m.engines[0]",
            "it might respond without the requested adapter",
        ),
    ],
    ids=lambda value: value[:40],
)
def test_rejects_invalid_models_with_their_place(text: str, place: str, reason: str) -> None:
    assert (place, reason) in problems_of(text)


@pytest.mark.parametrize("field", ["gpus: 1", "kv_cache: 1GiB", "extra_sources: [org/draft]"])
def test_attached_engines_reject_fields_for_started_ones(field: str) -> None:
    ((place, reason),) = problems_of(f"m: {{source: 'http://a/v1', {field}}}")
    assert place == f"m.{field.partition(':')[0]}"
    assert "attached by URL" in reason


@pytest.mark.parametrize(
    ("engines", "place", "value", "reason"),
    [
        ("[vllm]", "m.standby", "warm", "no second engine that could sleep while the first serves"),
        ("[vllm, trtllm]", "m.engines[1]", "trtllm", "TensorRT-LLM cannot sleep"),
        ("[sim, 'sim:trtllm']", "m.engines[1]", "sim:trtllm", "TensorRT-LLM cannot sleep"),
        (
            "[vllm, {url: http://a/v1, dialect: vllm}]",
            "m.engines[1]",
            "http://a/v1",
            "attached servers cannot sleep, and Berth cannot stop them",
        ),
        (
            "[http://a/v1, vllm]",
            "m.engines[0]",
            "http://a/v1",
            "attached servers cannot sleep, and Berth cannot stop them",
        ),
    ],
)
def test_warm_standby_requires_sleep_mode(engines: str, place: str, value: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_models(f"m: {{source: x/y, engines: {engines}, standby: warm}}")
    (problem,) = caught.value.problems
    assert (problem.variable, problem.value, problem.reason) == (f"BERTH_MODELS: {place}", value, reason)
    assert "warm" in problem.allowed
    assert problem.example == "engines: [vllm, sglang]"


def test_warm_standby_requires_two_engines() -> None:
    assert problems_of("m: {source: x/y, standby: warm}") == [
        ("m.standby", "no second engine that could sleep while the first serves")
    ]


@pytest.mark.parametrize(
    "engines", ["[vllm, sglang]", "[vllm, vllm]", "[trtllm, vllm]", "[sglang, sim:vllm, 'sim:sglang']"]
)
def test_accepts_warm_standby_with_sleep_mode(engines: str) -> None:
    (model,) = parse_models(f"m: {{source: x/y, engines: {engines}, standby: warm}}")
    assert model.standby is Standby.WARM


@pytest.mark.parametrize("text", ["m=any@sim,sim", "{m: {source: x/y, engines: [vllm, vllm], standby: hot}}"])
def test_hot_standby_accepts_copies(text: str) -> None:
    (model,) = parse_models(text)
    assert len(model.engines) == 2


def test_hot_standby_accepts_attached_engines_with_shares() -> None:
    (model,) = parse_models("{m: {engines: [http://a, {url: http://b, share: 2.5}], standby: hot, concurrency: 9}}")
    assert [engine.share for engine in model.engines] == [1.0, 2.5]
    assert (model.standby, model.concurrency) == (Standby.HOT, 9)


def test_accepts_the_same_engine_with_other_arguments() -> None:
    (model,) = parse_models("{m: {source: x/y, engines: [vllm, {engine: vllm, args: [--enforce-eager]}]}}")
    assert [engine.args for engine in model.engines] == [(), ("--enforce-eager",)]


def test_reports_all_problems_at_once() -> None:
    text = "{chat: {sorce: x, context: many}, 'a b': x/y, c: {source: x/y, engines: [vlm]}}"
    assert [place for place, _ in problems_of(text)] == [
        "chat.sorce",
        "chat.context",
        "chat.source",
        "a b",
        "c.engines[0]",
    ]


def test_keys_and_passwords_are_masked_in_both_forms() -> None:
    assert masked_models("m=http://u:p@host/v1") == "m=http://***@host/v1"
    assert (
        masked_models("m: {engines: [{url: 'http://a', api_key: k}]}")
        == "m: {engines: [{url: 'http://a', api_key: ***}]}"
    )


WORDS = st.text(alphabet="abM/.~=@:,-_0 {}[]'\"\n#&*\ud800\x00é", max_size=60)
FIELDS = ["source", "engines", "aliases", "gpus", "context", "standby", "pin", "idle_unload", "task", "revision"]
FIELDS += [
    "kv_cache",
    "extra_sources",
    "adapters",
    "vllm",
    "sim",
    "args",
    "env",
    "url",
    "dialect",
    "api_key",
    "engine",
    "model",
    "other",
]
VALUES = [
    "vllm",
    "sim:sglang",
    "http://a:1/v1",
    "./x",
    "Qwen/Qwen3-8B",
    "1",
    "0",
    "8k",
    "true",
    "hot",
    "[::",
    "http://[",
    "~",
]
LEAVES = st.sampled_from(VALUES) | st.text(max_size=6) | st.none() | st.integers() | st.booleans()
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=12,
)


@given(WORDS | st.text(max_size=80))
def test_any_text_is_read_or_rejected(text: str) -> None:
    masked_models(text)
    with contextlib.suppress(ConfigError):
        parse_models(text)  # passes: no other exception


@given(st.dictionaries(st.sampled_from(["m", "x/y", "a b", "7"]), TREES, min_size=1, max_size=2))
def test_any_fields_are_read_or_rejected(tree: dict[str, object]) -> None:
    with contextlib.suppress(ConfigError):
        assert {model.name for model in parse_models(json.dumps(tree))} == set(tree)

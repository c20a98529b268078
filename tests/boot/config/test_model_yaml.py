"""The YAML form, field by field."""

from typing import Any

import pytest

from berth.boot.config.model_rules import Problems
from berth.boot.config.model_spec import AdapterSpec, EngineOptions, ModelSpec
from berth.boot.config.model_yaml import parse_yaml
from berth.plan import EngineName, Load, Standby, Task


def read(fields: str) -> ModelSpec:
    problems = Problems()
    models = parse_yaml(f"m: {fields}", problems)
    assert problems.found == []
    (model,) = models
    return model


def problems_of(text: str) -> list[tuple[str, str, str]]:
    problems = Problems()
    parse_yaml(text, problems)
    return [
        (problem.variable.removeprefix("BERTH_MODELS: "), problem.value, problem.reason) for problem in problems.found
    ]


@pytest.mark.parametrize(
    ("field", "attribute", "value"),
    [
        ("context: 32768", "context", 32768),
        ("context: 32k", "context", 32000),
        ("context: '8K'", "context", 8192),
        ("standby: hot", "standby", Standby.HOT),
        ("standby: warm", "standby", Standby.WARM),
        ("task: embed", "task", Task.EMBED),
        ("revision: 1234567", "revision", "1234567"),
        ("revision: refs/pr/1", "revision", "refs/pr/1"),
        ("kv_cache: 8GiB", "kv_cache_bytes", 8 * 2**30),
        ("gpus: 2", "gpus", 2),
        ("gpus: [0, 3]", "gpus", (0, 3)),
        ("gpus: [GPU-6f0c-1]", "gpus", ("GPU-6f0c-1",)),
        ("aliases: [a, b/c]", "aliases", ("a", "b/c")),
        ("aliases: a", "aliases", ("a",)),
        ("extra_sources: [org/draft, org/adapter]", "extra_sources", ("org/draft", "org/adapter")),
        (
            "adapters: {law: org/law-lora, 'org/tone:v1': /data/tone}",
            "adapters",
            (AdapterSpec(name="law", source="org/law-lora"), AdapterSpec(name="org/tone:v1", source="/data/tone")),
        ),
        ("concurrency: 64", "concurrency", 64),
        ("sleep: true", "sleep", True),
        ("adapter_slots: 4", "adapter_slots", 4),
        ("adapter_slots: 4\n  adapter_rank: 16", "adapter_rank", 16),
        ("pass_fields: [chat_template, priority]", "pass_fields", ("chat_template", "priority")),
        ("pin: true", "pin", True),
        ("load: on_request", "load", Load.ON_REQUEST),
        ("load: on_request\n  idle_unload: 15m", "idle_unload_s", 900),
        ("adapter_slots: 2\n  adapter_folder: /data/lora/../chat", "adapter_folder", "/data/chat"),
        ("load: on_request\n  sleep: true\n  idle_stop: 2h", "idle_stop_s", 7200),
        ("load: on_request\n  min_residency: 2m", "min_residency_s", 120),
        ("load: on_request\n  max_wait: 90s", "max_wait_s", 90),
        ("load: on_request\n  drain_timeout: 90s", "drain_timeout_s", 90),
        ("load: on_request\n  drain_timeout: 0", "drain_timeout_s", 0),
        ("load: on_request\n  priority: high", "priority", "high"),
        ("context:", "context", None),
        ("trtllm: {args: [-x]}", "options", {EngineName.TRTLLM: EngineOptions(args=("-x",))}),
    ],
)
def test_reads_each_field(field: str, attribute: str, value: Any) -> None:
    model = read("\n  source: x/y\n  " + field)
    assert getattr(model, attribute) == value


@pytest.mark.parametrize(
    ("field", "place", "value", "reason"),
    [
        ("context: many", "m.context", "many", "not a number of tokens"),
        ("context: [1]", "m.context", "[...]", "expected a single value"),
        ("standby: cool", "m.standby", "cool", "unknown value (did you mean cold)"),
        ("load: on_request\n  pin: true", "m.pin", "true", "a pinned model is always loaded"),
        ("load: later", "m.load", "later", "unknown value"),
        ("pin: often", "m.pin", "often", "not a boolean"),
        ("adapter_rank: 16", "m.adapter_rank", "", "there is no room for adapters that are added later"),
        ("adapter_slots: 0", "m.adapter_slots", "0", "out of range"),
        ("adapter_folder: /data/chat", "m.adapter_folder", "", "there is no room for adapters that are added later"),
        ("idle_unload: 15m", "m.idle_unload", "", "a model that is always loaded is not unloaded"),
        ("sleep: true\n  idle_stop: 2h", "m.idle_stop", "", "a model that is always loaded is not unloaded"),
        ("load: on_request\n  idle_stop: 2h", "m.idle_stop", "", "its engines cannot be put to sleep"),
        ("min_residency: 2m", "m.min_residency", "", "a model that is always loaded is not unloaded"),
        ("drain_timeout: 2m", "m.drain_timeout", "", "a model that is always loaded is not unloaded"),
        ("max_wait: 2m", "m.max_wait", "", "a model that is always loaded does not wait for room"),
        ("load: on_request\n  idle_unload: 0", "m.idle_unload", "0", "must be greater than 0"),
        ("priority: low", "m.priority", "", "a model that is always loaded has its room in any case"),
        ("load: on_request\n  priority: 7", "m.priority", "7", "unknown value"),
        ("idle_unload: soon", "m.idle_unload", "soon", "not a duration"),
        ("task: chat", "m.task", "chat", "unknown value"),
        ("revision: ../x", "m.revision", "../x", "not a branch, tag or commit"),
        ("kv_cache: 8", "m.kv_cache", "8", "less than 1 MiB; is the unit missing?"),
        ("gpus: 0", "m.gpus", "0", "out of range"),
        ("gpus: 0,1", "m.gpus", "0,1", "not a whole number"),
        ("gpus: {a: b}", "m.gpus", "{...}", "expected a single value"),
        ("gpus: []", "m.gpus", "[]", "an empty list"),
        ("gpus: [1, 1]", "m.gpus", "[1, 1]", "duplicate GPU"),
        ("gpus: [-1]", "m.gpus[0]", "-1", "not a GPU index or UUID"),
        ("gpus: [MIG-1]", "m.gpus[0]", "MIG-1", "a MIG instance; Berth uses entire GPUs only"),
        ("pass_fields: [chat-template]", "m.pass_fields[0]", "chat-template", "not the name of a request field"),
        ("aliases: [a b]", "m.aliases[0]", "a b", "white space, '@', ',' or control characters in a name"),
        ("aliases: {a: b}", "m.aliases", "{...}", "expected a list"),
        ("extra_sources: [a b c]", "m.extra_sources[0]", "a b c", "not a hub id"),
        (
            "extra_sources: [/data/x]",
            "m.extra_sources[0]",
            "/data/x",
            "not a hub id; local files need not be named here",
        ),
        ("adapters: org/lora", "m.adapters", "org/lora", "expected a mapping from names to adapters"),
        ("adapters: {}", "m.adapters", "{...}", "0 adapters"),
        ("adapters: {a: [x]}", "m.adapters.a", "[...]", "expected a single value"),
        ("adapters: {a: http://x/y}", "m.adapters.a", "http://x/y", "not a hub id"),
        ("adapters: {a b: x/y}", "m.adapters.a b", "a b", "white space, '@', ',' or control characters in a name"),
        ("vllm: --x", "m.vllm", "--x", "expected a mapping of fields"),
        ("sim: {args: [-x]}", "m.sim", "", "sim is not among the model's engines"),
        ("contxt: 1", "m.contxt", "", "unknown field (did you mean context)"),
    ],
)
def test_rejects_invalid_fields_with_reason(field: str, place: str, value: str, reason: str) -> None:
    assert problems_of("m:\n  source: x/y\n  " + field) == [(place, value, reason)]


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("m: {source: x/y}", "m", "x/y"),
        ("m: {source: /a/b}", "m", "/a/b"),
        ("m: x/y", "m", "x/y"),
        ("m: x/y@vllm", "m", "x/y"),
        ("m: {source: 'http://a/v1', engines: vllm}", "m", "http://a/v1"),
        ("m: {engines: [http://a/v1, http://b]}", "m", "http://a/v1"),
        ("m: {engines: [sim, http://b]}", "m", "m"),
        ("x/y:", "x/y", "x/y"),
        ("x/y: {context: 8k}", "x/y", "x/y"),
        ("7: {source: x/y}", "7", "x/y"),
        ("12:30: x/y", "12:30", "x/y"),
        ("on: x/y", "on", "x/y"),
        ("'a:b': x/y", "a:b", "x/y"),
    ],
)
def test_source_is_given_or_derived_from_engines_or_name(text: str, name: str, source: str) -> None:
    problems = Problems()
    models = parse_yaml(text, problems)
    assert problems.found == []
    assert [(model.name, model.source) for model in models] == [(name, source)]


@pytest.mark.parametrize(
    ("text", "place", "value", "reason"),
    [
        ("m: {}", "m.source", "", "missing"),
        ("m:", "m.source", "", "missing"),
        ("m: {engines: [vllm]}", "m.source", "", "missing"),
        ("m: {engines: [vllm, http://a]}", "m.source", "", "missing"),
        ("m: {source: [x]}", "m.source", "[...]", "expected a single value"),
        ("m: {source: x y}", "m.source", "x y", "not a hub id, a local path or a URL"),
        ("m: {source: http://}", "m.source", "http://", "not an http or https URL with a host"),
        (
            "m: {source: http://a, engines: [{engine: vllm, args: [-x]}]}",
            "m.source",
            "vllm",
            "a URL is one server with one dialect",
        ),
        (
            "m: {source: http://a, engines: [http://b]}",
            "m.source",
            "remote",
            "a URL is one server with one dialect",
        ),
        ("m: [x/y]", "m", "[...]", "expected a mapping of fields"),
        ("a@b: x/y", "a@b", "a@b", "white space, '@', ',' or control characters in a name"),
        ("m: {source: x/y, engines: []}", "m.engines", "[]", "an empty list"),
        ("m: {source: x/y, engines: [vllm], sglang: {}}", "m.sglang", "", "sglang is not among the model's engines"),
    ],
)
def test_rejects_incompatible_sources_and_engines(text: str, place: str, value: str, reason: str) -> None:
    assert (place, value, reason) in problems_of(text)


def test_options_are_merged_into_named_engines() -> None:
    model = read("{source: x/y, engines: [vllm, sglang], vllm: {args: [-x]}, sglang: {env: {A: 1}}}")
    assert [(engine.args, engine.env) for engine in model.engines] == [(("-x",), {}), ((), {"A": "1"})]
    assert model.options == {}


def test_rejects_text_that_is_not_a_mapping() -> None:
    assert problems_of("a: [") == [
        ("BERTH_MODELS", "", "line 1, column 5: not YAML: expected the node content, but found '<stream end>'")
    ]
    assert problems_of("[a]") == [("BERTH_MODELS", "[...]", "expected a mapping from names to models")]


@pytest.mark.parametrize(
    ("fields", "auto", "engines"),
    [
        ("{engines: auto, source: org/m}", True, []),
        ("{engines: [auto], source: org/m}", True, []),
        ("{engines: [auto, vllm, sglang], source: org/m}", True, ["vllm", "sglang"]),
        ("{engines: [vllm], source: org/m}", False, ["vllm"]),
        ("org/m@auto", True, []),
        ("org/m@auto,vllm,sglang", True, ["vllm", "sglang"]),
        ("/models/m@auto", True, []),
        ("org/m", False, []),
    ],
)
def test_auto_comes_before_the_engines_or_alone(fields: str, auto: bool, engines: list[str]) -> None:
    model = read(fields)
    assert (model.auto, [str(one.engine) for one in model.engines]) == (auto, engines)


def test_auto_is_nothing_else() -> None:
    (found,) = problems_of("m: {engines: [vllm, auto], source: org/m}")
    assert "unknown engine 'auto'" in found[2]
    (found,) = problems_of("m: {engines: auto, replicas: 2, source: org/m}")
    assert found[2] == "replicas are copies of one engine that Berth starts"

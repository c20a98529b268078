"""Engines in the YAML form: names, attached servers, and what is added to command lines."""

from pathlib import Path

import pytest

from berth.boot.config.engine_yaml import engine_entry, engine_list, engine_options, merged
from berth.boot.config.model_rules import Problems
from berth.boot.config.model_spec import EngineOptions, EngineSpec
from berth.boot.config.yaml_text import Tree, read
from berth.plan import DialectName, EngineName


def engines(text: str) -> tuple[EngineSpec, ...]:
    problems = Problems()
    found = engine_list(problems, "m.engines", read(text))
    assert problems.found == []
    return found


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("vllm", EngineSpec(engine=EngineName.VLLM)),
        ("[sim:trtllm]", EngineSpec(engine=EngineName.SIM, dialect=DialectName.TRTLLM)),
        ("[http://a:1/v1]", EngineSpec(engine=EngineName.REMOTE, url="http://a:1/v1")),
        ("[{url: http://a:1/v1}]", EngineSpec(engine=EngineName.REMOTE, url="http://a:1/v1")),
        (
            "[{url: http://a/v1, dialect: vllm, api_key: k, model: served/name}]",
            EngineSpec(
                engine=EngineName.REMOTE,
                url="http://a/v1",
                dialect=DialectName.VLLM,
                api_key="k",
                remote_name="served/name",
            ),
        ),
        (
            "[{url: http://a, weights: ' Qwen/Qwen3-8B  v2 '}]",
            EngineSpec(engine=EngineName.REMOTE, url="http://a", weights="Qwen/Qwen3-8B v2"),
        ),
        (
            "[{url: http://a, continues: false}]",
            EngineSpec(engine=EngineName.REMOTE, url="http://a", continues=False),
        ),
        (
            "[{url: http://a, dialect: openai, batch: 32}]",
            EngineSpec(engine=EngineName.REMOTE, url="http://a", dialect=DialectName.OPENAI, batch=32),
        ),
        (
            "[{engine: sim, dialect: sglang, args: [--ttft, 0.5], env: {A: on, B: ''}}]",
            EngineSpec(
                engine=EngineName.SIM,
                dialect=DialectName.SGLANG,
                args=("--ttft", "0.5"),
                env={"A": "on", "B": ""},
            ),
        ),
        ("[{engine: sim:vllm}]", EngineSpec(engine=EngineName.SIM, dialect=DialectName.VLLM)),
    ],
)
def test_an_entry_is_a_name_a_url_or_a_mapping(text: str, spec: EngineSpec) -> None:
    assert engines(text) == (spec,)


def test_engine_order_may_be_one_string() -> None:
    assert [engine.engine for engine in engines("vllm, sglang")] == [EngineName.VLLM, EngineName.SGLANG]


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("[]", "", "an empty list"),
        ("{url: http://a}", "", "expected a list"),
        ("[vlm]", "[0]", "unknown engine 'vlm' (did you mean vllm)"),
        ("[vllm, {ulr: http://a}]", "[1]", "not an engine"),
        ("[[vllm]]", "[0]", "not an engine"),
        ("[null]", "[0]", "not an engine"),
        ("[{url: http://a, dialct: vllm}]", "[0].dialct", "unknown field (did you mean dialect)"),
        ("[{url: http://a, args: [x]}]", "[0].args", "unknown field"),
        ("[{url: null}]", "[0].url", "expected a single value"),
        ("[{url: 'http://a?b=c'}]", "[0].url", "a base URL has no query and no fragment"),
        ("[{url: http://a, dialect: vlm}]", "[0].dialect", "unknown value (did you mean vllm)"),
        ("[{url: http://a, model: 'a b'}]", "[0].model", "contains white space or starts with a dash"),
        ("[{url: http://a, api_key: k, api_key_file: f}]", "[0].api_key_file", "api_key is set too"),
        ("[{url: http://a, api_key: [k]}]", "[0].api_key", "white space, control or non-ASCII characters in a key"),
        ("[{engine: vllm, dialect: sglang}]", "[0].dialect", "vllm has only one dialect"),
        ("[{engine: sim, dialect: openai}]", "[0].dialect", "unknown value"),
        ("[{engine: [vllm]}]", "[0].engine", "expected a single value"),
        ("[{engine: vllm, args: --x 1}]", "[0].args", "expected a list"),
        ("[{engine: vllm, share: 0}]", "[0].share", "out of range"),
        ("[{engine: vllm, share: nan}]", "[0].share", "out of range"),
        ("[{url: http://a, share: much}]", "[0].share", "not a number"),
        ("[{url: http://a, batch: 0}]", "[0].batch", "out of range"),
        ("[{url: http://a, continues: maybe}]", "[0].continues", "not a boolean"),
        ("[{engine: vllm, continues: true}]", "[0].continues", "unknown field"),
        ("[{engine: vllm, batch: 32}]", "[0].batch", "unknown field"),
        ("[{engine: vllm, args: [--x, [1]]}]", "[0].args[1]", "expected a single value"),
        ("[{engine: vllm, args: [--port=1]}]", "[0].args[0]", "Berth sets this itself"),
        ("[{engine: trtllm, args: [--served_model_name, x]}]", "[0].args[0]", "Berth sets this itself"),
        (
            "[{engine: sglang, args: [--hos, 0.0.0.0]}]",
            "[0].args[0]",
            "an abbreviation of --host, which may not be set here",
        ),
        (
            "[{engine: vllm, args: [--hf-tok=s3cret]}]",
            "[0].args[0]",
            "an abbreviation of --hf-token, which may not be set here",
        ),
        (
            "[{engine: vllm, args: [--hf-token=s3cret]}]",
            "[0].args[0]",
            "a secret that `ps` would show: put it into `env`, or into a file that the engine reads",
        ),
        ("[{engine: vllm, env: [A]}]", "[0].env", "expected a mapping"),
        ("[{engine: vllm, env: {VLLM_API_KEY: x}}]", "[0].env.VLLM_API_KEY", "Berth sets this itself"),
        ("[{engine: vllm, env: {A: null}}]", "[0].env.A", "expected a single value"),
        ("[{engine: vllm, env: {A: [x]}}]", "[0].env.A", "expected a single value"),
        ("[{engine: vllm, env: {1A: x}}]", "[0].env.1A", "not an environment variable name"),
        ("[{engine: vllm, env: {BERTH_PORT: 1}}]", "[0].env.BERTH_PORT", "BERTH_* variables are not passed to engines"),
    ],
)
def test_rejects_invalid_engines_with_their_place(text: str, place: str, reason: str) -> None:
    problems = Problems()
    engine_list(problems, "m.engines", read(text))
    found = [(problem.variable, problem.reason) for problem in problems.found]
    assert found == [(f"BERTH_MODELS: m.engines{place}", reason)]
    assert "s3cret" not in str(problems.found)


def test_reads_api_key_from_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("k3y\n")
    (engine,) = engines(f"[{{url: http://a, api_key_file: {path}}}]")
    assert engine.api_key == "k3y"


@pytest.mark.parametrize(("text", "reason"), [("s3cret word", "white space"), ("", "the file is empty")])
def test_invalid_key_file_is_reported_without_contents(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    problems = Problems()
    engine_list(problems, "m", [{"url": "http://a", "api_key_file": str(path)}])
    (problem,) = problems.found
    assert problem.variable == "BERTH_MODELS: m[0].api_key_file"
    assert reason in problem.reason
    assert "s3cret" not in str(problem)


def test_invalid_api_key_is_masked() -> None:
    problems = Problems()
    engine_list(problems, "m", [{"url": "http://a", "api_key": "s3cret word"}])
    assert problems.found[0].value == "***"
    assert "s3cret" not in str(problems.found[0])


@pytest.mark.parametrize(
    ("tree", "options"),
    [
        (None, EngineOptions()),
        ({"args": ["-x"]}, EngineOptions(args=("-x",))),
        ({"env": {"A": "1"}}, EngineOptions(env={"A": "1"})),
    ],
)
def test_reads_engine_options(tree: Tree, options: EngineOptions) -> None:
    problems = Problems()
    assert engine_options(problems, "m.vllm", tree) == options
    assert problems.found == []


def test_options_of_the_entry_override_those_of_the_model() -> None:
    options = {EngineName.VLLM: EngineOptions(args=("-a",), env={"A": "1", "B": "1"})}
    entry = EngineSpec(engine=EngineName.VLLM, args=("-b",), env={"B": "2"})
    assert merged(entry, options) == EngineSpec(engine=EngineName.VLLM, args=("-a", "-b"), env={"A": "1", "B": "2"})
    other = EngineSpec(engine=EngineName.SGLANG)
    assert merged(other, options) is other


@pytest.mark.parametrize(
    ("tree", "engine"),
    [
        ("vllm", EngineName.VLLM),
        ("http://a:1/v1", EngineName.REMOTE),
        ({"url": "http://a:1/v1"}, EngineName.REMOTE),
        ({"engine": "sglang"}, EngineName.SGLANG),
    ],
)
def test_entry_is_a_name_a_url_or_a_mapping(tree: Tree, engine: EngineName) -> None:
    problems = Problems()

    entry = engine_entry(problems, "m.engines[0]", tree)

    assert (entry.engine if entry else None, problems.found) == (engine, [])


def test_entry_of_another_shape_is_a_problem() -> None:
    problems = Problems()

    assert engine_entry(problems, "m.engines[0]", {"args": []}) is None
    assert [problem.reason for problem in problems.found] == ["not an engine"]

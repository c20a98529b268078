"""The short form, entry by entry."""

import os

import pytest

from berth.boot.config.model_rules import Problems
from berth.boot.config.model_shorthand import parse_line, split_engines, split_name
from berth.boot.config.model_spec import EngineSpec, ModelSpec
from berth.plan import DialectName, EngineName


def read(text: str) -> ModelSpec:
    problems = Problems()
    models = parse_line(text, problems)
    assert problems.found == []
    (model,) = models
    return model


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ("Qwen/Qwen3-8B", (None, "Qwen/Qwen3-8B")),
        ("chat=Qwen/Qwen3-8B", ("chat", "Qwen/Qwen3-8B")),
        ("org/chat=x/y", ("org/chat", "x/y")),
        ("m=http://a/v1?b=c", ("m", "http://a/v1?b=c")),
        ("http://a/v1?b=c", (None, "http://a/v1?b=c")),
        ("./models/a=b", (None, "./models/a=b")),
        ("=x", ("", "x")),
    ],
)
def test_splits_name_at_the_first_equals_sign_outside_paths_and_urls(entry: str, parts: tuple[str, str]) -> None:
    assert split_name(entry) == parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("x/y", ("x/y", None)),
        ("x/y@vllm,sglang", ("x/y", "vllm,sglang")),
        ("x/y@", ("x/y", "")),
        ("x@y@vllm", ("x@y", "vllm")),
        ("http://user@host/v1", ("http://user@host/v1", None)),
        ("http://host/v1@vllm", ("http://host/v1", "vllm")),
        ("http://user@host/v1@sglang", ("http://user@host/v1", "sglang")),
        ("/models/llama@2024", ("/models/llama@2024", None)),
        ("/models/user@home/x", ("/models/user@home/x", None)),
        ("/models/user@home/x@vllm", ("/models/user@home/x", "vllm")),
        ("/models/x@vlm", ("/models/x", "vlm")),
        ("/models/x@sim:other", ("/models/x", "sim:other")),
    ],
)
def test_splits_engines_at_the_last_at_sign_outside_the_source(text: str, parts: tuple[str, str]) -> None:
    assert split_engines(text) == parts


@pytest.mark.parametrize(
    ("entry", "name", "source"),
    [
        ("Qwen/Qwen3-8B@vllm", "Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("gpt2", "gpt2", "gpt2"),
        ("/data/models/bge-m3@vllm", "bge-m3", "/data/models/bge-m3"),
        ("./tiny", "tiny", os.path.join(os.getcwd(), "tiny")),  # noqa: PTH109, PTH118 - the same words as the code
        ("chat=/data/a@b", "chat", "/data/a@b"),
        ("m=any@sim", "m", "any"),
        ("any@sim", "any", "any"),
    ],
)
def test_default_name_is_the_source(entry: str, name: str, source: str) -> None:
    model = read(entry)
    assert (model.name, model.source) == (name, source)


def test_sim_takes_each_dialect() -> None:
    model = read("m=any@sim:vllm,sim:sglang,sim:trtllm,sim")
    assert [engine.dialect for engine in model.engines] == [
        DialectName.VLLM,
        DialectName.SGLANG,
        DialectName.TRTLLM,
        None,
    ]


@pytest.mark.parametrize(
    ("entry", "url", "dialect"),
    [
        ("m=http://127.0.0.1:9100/v1", "http://127.0.0.1:9100/v1", None),
        ("m=HTTPS://host/base/v1/", "https://host/base/v1", None),
        ("m=http://127.0.0.1:9100@sglang", "http://127.0.0.1:9100", DialectName.SGLANG),
    ],
)
def test_a_url_attaches_a_server(entry: str, url: str, dialect: DialectName | None) -> None:
    assert read(entry).engines == (EngineSpec(engine=EngineName.REMOTE, url=url, dialect=dialect),)


@pytest.mark.parametrize(
    ("entry", "place", "value", "reason"),
    [
        ("http://a/v1", "http://a/v1", "", "an attached server needs a name"),
        ("=x/y", "=x/y", "", "a name has 1 to 200 characters"),
        ("a,b=x/y", "a,b=x/y", "a,b", "white space, '@', ',' or control characters in a name"),
        ("/a/x@2024", "/a/x@2024", "x@2024", "white space, '@', ',' or control characters in a name"),
        ("/", "/", "", "a name has 1 to 200 characters"),
        ("a,b@sim", "a,b@sim", "a,b", "white space, '@', ',' or control characters in a name"),
        ("m=x/y@vllm,", "m", "", "unknown engine ''"),
        ("m=x/y@vLLM", "m", "vLLM", "unknown engine 'vLLM' (did you mean vllm)"),
        ("m=x/y@remote", "m", "remote", "unknown engine 'remote'"),
        ("m=x/y@vllm:sglang", "m", "vllm:sglang", "only sim takes a dialect after a colon"),
        ("m=x/y@sim:vlm", "m", "sim:vlm", "unknown dialect 'vlm' of sim (did you mean vllm)"),
        ("m=a/b/c", "m", "a/b/c", "not a hub id, a local path or a URL"),
        ("m=", "m", "", "not a hub id, a local path or a URL"),
        ("m=x@y@vllm", "m", "x@y", "not a hub id, a local path or a URL"),
        ("m=-x@sim", "m", "-x", "contains white space or starts with a dash"),
        ("m=~unknown-user/x", "m", "~unknown-user/x", "unknown home directory"),
        ("m=http://h/v1?a=b", "m", "http://h/v1?a=b", "a base URL has no query and no fragment"),
        ("m=http://h/v1@vllm,sglang", "m", "vllm, sglang", "a URL is one server with one dialect"),
        ("m=http://h/v1@sim", "m", "sim", "a URL is one server with one dialect"),
    ],
)
def test_rejects_invalid_entries_with_place_and_value(entry: str, place: str, value: str, reason: str) -> None:
    problems = Problems()
    assert parse_line(entry, problems) == ()
    found = [(problem.variable, problem.value, problem.reason) for problem in problems.found]
    assert found == [(f"BERTH_MODELS: {place}", value, reason)]


def test_revision_error_names_the_yaml_field() -> None:
    problems = Problems()
    parse_line("Qwen/Qwen3-8B:main", problems)
    assert "revision" in problems.found[0].reason


def test_password_in_url_is_masked() -> None:
    problems = Problems()
    parse_line("m=http://user:s3cret@host/v1 http://user:s3cret@host/v1", problems)
    text = " ".join(str(problem) for problem in problems.found)
    assert "api_key" in text
    assert "s3cret" not in text

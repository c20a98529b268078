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
def test_the_name_ends_at_the_first_equals_sign_outside_paths_and_urls(entry: str, parts: tuple[str, str]) -> None:
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
def test_the_engines_follow_the_last_at_sign_that_is_no_part_of_the_source(text: str, parts: tuple[str, str]) -> None:
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
def test_a_model_without_a_name_is_called_like_its_source(entry: str, name: str, source: str) -> None:
    model = read(entry)
    assert (model.name, model.source) == (name, source)


def test_sim_pretends_to_be_each_engine() -> None:
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
        ("m=http://127.0.0.1:9100/v1", "http://127.0.0.1:9100", None),
        ("m=HTTPS://host/base/v1/", "https://host/base", None),
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
        ("m=x/y@vllm,", "m", "", "no such engine"),
        ("m=x/y@vLLM", "m", "vLLM", "no such engine (did you mean vllm)"),
        ("m=x/y@remote", "m", "remote", "no such engine"),
        ("m=x/y@vllm:sglang", "m", "vllm:sglang", "only sim takes a dialect after a colon"),
        ("m=x/y@sim:vlm", "m", "sim:vlm", "no dialect that sim speaks (did you mean vllm)"),
        ("m=a/b/c", "m", "a/b/c", "neither a hub id, nor a local path, nor a URL"),
        ("m=", "m", "", "neither a hub id, nor a local path, nor a URL"),
        ("m=x@y@vllm", "m", "x@y", "neither a hub id, nor a local path, nor a URL"),
        ("m=-x@sim", "m", "-x", "white space, or a dash at the beginning"),
        ("m=~nobody-at-all/x", "m", "~nobody-at-all/x", "no home directory is known for ~"),
        ("m=http://h/v1?a=b", "m", "http://h/v1?a=b", "a base URL has no query and no fragment"),
        ("m=http://h/v1@vllm,sglang", "m", "vllm, sglang", "a source that is a URL is one server with one dialect"),
        ("m=http://h/v1@sim", "m", "sim", "a source that is a URL is one server with one dialect"),
    ],
)
def test_what_is_wrong_is_told_with_place_and_value(entry: str, place: str, value: str, reason: str) -> None:
    problems = Problems()
    assert parse_line(entry, problems) == ()
    told = [(problem.variable, problem.value, problem.reason) for problem in problems.found]
    assert told == [(f"BERTH_MODELS: {place}", value, reason)]


def test_a_revision_is_sent_to_its_field_in_yaml() -> None:
    problems = Problems()
    parse_line("Qwen/Qwen3-8B:main", problems)
    assert "revision" in problems.found[0].reason


def test_a_password_in_a_url_is_not_repeated() -> None:
    problems = Problems()
    parse_line("m=http://user:s3cret@host/v1 http://user:s3cret@host/v1", problems)
    text = " ".join(str(problem) for problem in problems.found)
    assert "api_key" in text
    assert "s3cret" not in text

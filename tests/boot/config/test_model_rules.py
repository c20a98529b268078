"""Single values of BERTH_MODELS: names, URLs, sources."""

import pytest

from berth.boot.config import model_rules as rules


@pytest.mark.parametrize("name", ["chat", "Qwen/Qwen3-8B", "gpt-4o:mini", "a=b", "模型", "12:30", "x" * 200])
def test_accepts_names(name: str) -> None:
    assert rules.public_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 201, "a b", "a\tb", "a\x00b", "a@b", "a,b", "/a", "a/", "a//b", "a\u00a0b", "\ud800"]
)
def test_rejects_names_that_break_paths_or_lists(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        rules.public_name(name)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:9100/v1", "http://127.0.0.1:9100/v1"),
        ("http://127.0.0.1:9100/v1/", "http://127.0.0.1:9100/v1"),
        ("http://127.0.0.1:9100", "http://127.0.0.1:9100"),
        ("https://host/api/v3//", "https://host/api/v3"),
        ("https://host/v10", "https://host/v10"),
        ("HTTP://[::1]:80/", "http://[::1]:80"),
    ],
)
def test_base_url_is_taken_as_written(url: str, base: str) -> None:
    assert rules.base_url(url) == base


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://", "with a host"),
        ("ftp://host", "with a host"),
        ("host:80", "with a host"),
        ("http://host:0", "with a host"),
        ("http://host:99999", "not a URL"),
        ("http://[::1", "not a URL"),
        ("http://ho st", "with a host"),
        ("http://höst", "with a host"),
        ("http://key@host", "user name"),
        ("http://:pw@host", "user name"),
        ("http://host/v1?", "no query"),
        ("http://host/v1#x", "no query"),
    ],
)
def test_rejects_invalid_base_url(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        rules.base_url(url)


@pytest.mark.parametrize("source", ["Qwen/Qwen3-8B", "gpt2", "BAAI/bge-m3", "a_b/c.d-e", "_x/y"])
def test_hub_ids_have_one_or_two_parts(source: str) -> None:
    assert rules.is_hub_id(source)


@pytest.mark.parametrize("source", ["", "-x", "a/b/c", "a/", "/a", "a b", "x.", "a/-b", "a:b", "a" * 97])
def test_rejects_invalid_hub_ids(source: str) -> None:
    assert not rules.is_hub_id(source)


def test_problems_carry_place_value_and_example() -> None:
    problems = rules.Problems()
    assert problems.parse("chat", "a b", rules.NAME) is None
    assert problems.parse("chat", "a", rules.NAME) == "a"
    (problem,) = problems.found
    assert str(problem).startswith("BERTH_MODELS: chat='a b': white space")
    assert problem.example == "chat=Qwen/Qwen3-8B"

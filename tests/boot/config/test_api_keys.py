"""Both forms of BERTH_API_KEYS, and every problem of either at once."""

from pathlib import Path

import pytest

from berth.boot.config.api_keys import parse_api_keys
from berth.errors import ConfigError
from berth.plan import ApiKey
from berth.plan.keys import digest
from tests.fakes.api_keys import api_keys

LONG = "sk-berth-0123456789abcdef01234567"


@pytest.mark.parametrize("text", ["one,two", "one two", "one\ntwo\n", "one,one,two", "one, two"])
def test_a_list_has_numbered_names(text: str) -> None:
    assert parse_api_keys(text) == api_keys("one", "two")


def test_a_key_with_a_colon_is_no_mapping() -> None:
    assert parse_api_keys("user:word") == api_keys("user:word")


def test_a_mapping_has_limits_and_defaults(tmp_path: Path) -> None:
    file = tmp_path / "kiosk"
    file.write_text(f"{LONG}\n")
    found = parse_api_keys(
        f"""
        alice: {{key: [{LONG}-a, {LONG}-b], models: [chat, embed], priority: normal, share: 2}}
        ci: {{sha256: {digest("x")}, requests_per_minute: 60, tokens_per_minute: 20k, concurrency: 4}}
        kiosk: {{key_file: {file}, tokens_per_day: 2m, tokens_per_month: 20m, expires: 2027-01-31, burst: 2m}}
        default: {{concurrency: 8, models: chat}}
        """
    )
    assert found == (
        ApiKey(
            name="alice",
            slot=1,
            digests=(digest(f"{LONG}-a"), digest(f"{LONG}-b")),
            models=("chat", "embed"),
            priority="normal",
            share=2,
            concurrency=8,
        ),
        ApiKey(
            name="ci",
            slot=2,
            digests=(digest("x"),),
            models=("chat",),
            requests_per_minute=60,
            tokens_per_minute=20_000,
            concurrency=4,
        ),
        ApiKey(
            name="kiosk",
            slot=3,
            digests=(digest(LONG),),
            files=(str(file),),
            from_files=(digest(LONG),),
            models=("chat",),
            concurrency=8,
            tokens_per_day=2_000_000,
            tokens_per_month=20_000_000,
            expires=1801353600.0,
            burst_s=120,
        ),
    )
    assert [key.limited for key in found] == [True, True, True]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("Alice: {key: k}", ["Alice"]),
        ("anonymous: {key: k}", ["anonymous"]),
        ("a: {models: [m]}", ["a"]),
        ("a: {key: 'two words'}", ["a.key"]),
        ("a: {key: {b: c}}", ["a.key"]),
        ("a: {sha256: abc}", ["a.sha256[0]"]),
        ("a: {key_file: /nowhere}", ["a.key_file"]),
        ("a: {key: k, models: []}", ["a.models"]),
        ("a: {key: k, share: 0}", ["a.share"]),
        ("a: {key: k, expires: soon}", ["a.expires"]),
        ("a: {key: k, request_per_minute: 1}", ["a.request_per_minute"]),
        ("a: {key: k}\nb: {key: k}", ["b"]),
        ("a: {key: k}\na: {key: l}", [""]),
        ("default: {share: 2}", [""]),
        ("a: {priority: urgent, burst: 0, tokens_per_day: 1.5}", ["a", "a.burst", "a.priority", "a.tokens_per_day"]),
        ("{a: b", [""]),
        ("a: k", ["a", "a"]),
        ("\n".join(f"k{number}: {{key: k{number}}}" for number in range(1001)), [""]),
    ],
)
def test_all_problems_are_named_without_the_keys(text: str, places: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_api_keys(text)

    problems = caught.value.problems
    expected = [f"BERTH_API_KEYS: {place}".removesuffix(": ") for place in places]
    assert sorted(one.variable for one in problems) == sorted(expected)
    assert all(one.reason and one.allowed and one.example for one in problems)
    assert "two words" not in str(caught.value)

"""The files of the API keys are read again by the rules of the start."""

from dataclasses import replace
from pathlib import Path

import pytest

from berth.boot.api_keys import renewed_keys
from berth.boot.config.api_keys import parse_api_keys
from berth.errors import ConfigError
from berth.plan import Keys, Plan
from berth.plan.keys import digest
from tests.fakes.router import make_plan, replica

ADMIN = Keys(admin_key_digest=digest("root"))


PLAN = make_plan("/run", [replica("chat-a", "http://127.0.0.1:1")])


def plan_with(file: Path) -> Plan:
    return replace(PLAN, keys_file=str(file))


def test_the_file_counts_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("alice: {key: a, models: [chat]}\n")

    assert [key.name for key in renewed_keys(plan_with(file), ADMIN)] == ["alice"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        ("alice: {key: a, models: [chta]}", "did you mean chat"),
        ("alice: {key: root}", "every client could stop the models"),
        ("alice: {key: a, share: -1}", "not a number"),
    ],
)
def test_what_is_wrong_with_it_is_said(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)

    with pytest.raises(ConfigError, match=reason):
        renewed_keys(plan_with(file), ADMIN)


def test_a_key_file_replaces_only_its_own_keys(tmp_path: Path) -> None:
    file = tmp_path / "alice"
    file.write_text("old")
    keys = parse_api_keys(f"alice: {{key: mine, key_file: {file}}}\nbob: {{key: b}}")
    file.write_text("new")

    alice, bob = renewed_keys(PLAN, replace(ADMIN, api_keys=keys))

    assert (alice.digests, bob) == ((digest("mine"), digest("new")), keys[1])
    file.unlink()
    with pytest.raises(ConfigError, match="key_file"):
        renewed_keys(PLAN, replace(ADMIN, api_keys=keys))

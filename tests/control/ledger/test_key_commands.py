import subprocess
import time
from pathlib import Path

import pytest

from berth import admin_keys
from berth.boot.config.api_keys import parse_api_keys
from berth.control.ledger import key_commands
from berth.errors import ControlError
from berth.plan import Keys, RunPaths
from berth.plan.keys import digest
from berth.processes import replace_file


def test_both_lines_of_a_new_key_configure_the_same() -> None:
    key, *_, given, hashed = key_commands.new("alice", as_variables=False).splitlines()

    assert parse_api_keys(given) == parse_api_keys(hashed)
    assert parse_api_keys(given)[0].digests == (digest(key),)
    assert len(key) == 33


@pytest.mark.parametrize(("name", "variable"), [("alice", "ALICE"), ("ci-2", "CI_2"), ("2nd", "_2ND")])
def test_a_shell_can_read_a_new_key(name: str, variable: str) -> None:
    script = f'{key_commands.new(name, as_variables=True)}\necho "${variable}_KEY" "${variable}_SHA256"'
    key, hashed = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert digest(key) == hashed


@pytest.mark.parametrize("name", ["Alice", "default", "anonymous", "", "-a", "a" * 33])
def test_names_that_no_key_can_have(name: str) -> None:
    with pytest.raises(ControlError, match="no name for a key"):
        key_commands.new(name, as_variables=False)


def test_an_admin_key_lasts_twelve_hours(tmp_path: Path) -> None:
    replace_file(RunPaths(run_dir=str(tmp_path), data_dir="").keys, Keys(admin_secret="s3cret").to_json())

    ends = admin_keys.ends_of(key_commands.admin(str(tmp_path)).encode(), "s3cret")

    assert ends is not None
    assert 43_000 < ends - time.time() <= 43_200


def test_the_list_shows_limits_and_no_keys(tmp_path: Path) -> None:
    path = RunPaths(run_dir=str(tmp_path), data_dir="").keys
    text = "alice: {key: s3cret, models: [chat], tokens_per_day: 2k}\nbob: {key: b0b, expires: 2027-01-31}"
    replace_file(path, Keys(api_keys=parse_api_keys(text)).to_json())

    lines = [line.split(maxsplit=4) for line in key_commands.listing(str(tmp_path)).splitlines()]

    assert lines[1:] == [
        ["alice", "-", "high", "1", "models: [chat], tokens_per_day: 2000"],
        ["bob", "2027-01-31", "high", "1", "none"],
    ]
    replace_file(path, Keys().to_json())
    assert key_commands.listing(str(tmp_path)) == "No key: BERTH_API_KEYS is not set."

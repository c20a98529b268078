"""The options that a model's `args` may not have, against the engines' own tables."""

import pytest

from berth.boot.config.model_rules import OWN_FLAGS, SECRET_FLAG, argument
from berth.boot.config.parsers import SECRET_FLAGS
from berth.engines.cli_arguments import option
from etc.tools.contract.table import SNAPSHOTS, read

TABLES = [read(path) for path in sorted(SNAPSHOTS.glob("*.json"))]
READ_FLAGS = ("--data-parallel-size", "--max-num-seqs", "--max-running-requests", "--tokenizer-worker-num", "--config")


def flags_of(engine: int) -> set[str]:
    flags = {flag.replace("_", "-") for option in TABLES[engine].options for flag in option.flags}
    return {flag for flag in flags if flag.startswith("--")}


def prefixes(flag: str) -> list[str]:
    return [flag[:end] for end in range(len("--") + 1, len(flag))]


def rejected(word: str) -> bool:
    try:
        argument(word)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("engine", range(len(TABLES)), ids=[table.engine for table in TABLES])
def test_only_reserved_options_are_rejected_and_in_every_abbreviation(engine: int) -> None:
    flags = flags_of(engine)
    reserved = {flag for flag in flags if flag in OWN_FLAGS or SECRET_FLAG.fullmatch(flag)}

    assert {flag for flag in flags if rejected(flag)} == reserved
    assert {flag for flag in reserved if SECRET_FLAG.fullmatch(flag)} <= set(SECRET_FLAGS)
    for flag in reserved:
        accepted = {short for short in prefixes(flag) if not rejected(short) or not rejected(f"{short}=x")}
        assert accepted <= flags, f"abbreviations of {flag} that are accepted"


@pytest.mark.parametrize("engine", range(len(TABLES)), ids=[table.engine for table in TABLES])
@pytest.mark.parametrize("flag", READ_FLAGS)
def test_abbreviated_options_are_read_and_others_are_not(engine: int, flag: str) -> None:
    flags = flags_of(engine)
    for short in prefixes(flag):
        others = {other for other in flags if other.startswith(short) and other != flag}
        if short in flags or not others:  # else the engine rejects it as ambiguous
            assert (option((short, "7"), flag) == "7") is (short not in flags), short

"""What changed between two versions, in words."""

from dataclasses import replace

import pytest

from etc.tools.contract.difference import difference
from etc.tools.contract.table import Deprecation, Option, Snapshot

PORT = Option(flags=("--port",), dest="port", type="int", default=8000)
KIND = Option(flags=("--kind",), dest="kind", choices=("a", "b"))
OLD = Snapshot(
    engine="vllm",
    version="1",
    origin="",
    options=(PORT, KIND),
    yaml=(Option(dest="share", type="float"),),
    variables={"A": ("vllm.envs",), "B": ()},
)


def changed(*options: Option, used: tuple[str, ...] = ()) -> list[str]:
    return difference(OLD, replace(OLD, options=options), used)


def test_equal_snapshots_have_no_difference() -> None:
    assert difference(OLD, replace(OLD, version="2")) == []


def test_reports_added_and_removed_options() -> None:
    new = Option(flags=("--new",), dest="new", type="int", choices=(1, 2), default=1, deprecated=Deprecation.WARNS)

    assert changed(KIND, new, Option(flags=("--plain",), dest="plain"), used=("--port",)) == [
        "removed option: --port  <- Berth writes it",
        "added option: --new (int, one of 1, 2, default 1, deprecated: warns)",
        "added option: --plain",
    ]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (replace(PORT, default=None), "--port: default 8000 -> unset"),
        (replace(PORT, type=""), "--port: type int -> unset"),
        (replace(PORT, required=True), "--port: required False -> True"),
        (replace(PORT, nargs="+"), "--port: nargs unset -> +"),
        (replace(PORT, deprecated=Deprecation.REFUSED), "--port: deprecated unset -> refused"),
        (replace(PORT, flags=("--port", "-p")), "--port: flags now also -p"),
        (replace(PORT, choices=(1,)), "--port: choices any -> 1"),
    ],
)
def test_reports_changed_options(option: Option, words: str) -> None:
    assert changed(option, KIND) == [f"changed option: {words}"]
    assert changed(option, KIND, used=("--port",)) == [f"changed option: {words}  <- Berth writes it"]


def test_reports_choices_one_by_one() -> None:
    assert changed(PORT, replace(KIND, choices=("b", "c"))) == [
        "changed option: --kind: choices no longer a; choices now also c"
    ]


def test_renamed_option_with_its_old_name_is_the_same() -> None:
    renamed = replace(PORT, flags=("--listen", "--port"), dest="listen")

    assert changed(renamed, KIND, used=("--port",)) == [
        "changed option: --listen: flags now also --listen  <- Berth writes it"
    ]


def test_compares_keys_and_variables() -> None:
    new = replace(OLD, yaml=(), variables={"A": (), "B": ("vllm.envs",), "C": ()})

    assert difference(OLD, new, ("share",)) == [
        "removed key of the options file: share  <- Berth writes it",
        "variable A occurs nowhere any more  <- Berth writes it",
        "variable B occurs now, in vllm.envs  <- Berth writes it",
    ]

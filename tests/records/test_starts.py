"""The file of start times: kept, found again, and whatever else may be in its place."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from berth.plan import EngineName, MeasuredAs
from berth.records import starts
from berth.records.starts import (
    KEPT,
    LONGEST_S,
    MOST,
    STARTS_VERSION,
    How,
    Start,
    StartKind,
    Starts,
    kind_of,
    path,
    read,
    write,
)
from tests.fakes.plans import make_replica

KIND = StartKind(model="chat", engine=EngineName.VLLM, how=How.COLD, of="d")


def taking(*seconds: float) -> Starts:
    found = Starts()
    for number, one in enumerate(seconds):
        found = found.with_start(KIND, Start(at=number, seconds=one, phases={"load": one - 1, "graphs": 1}))
    return found


def test_starts_are_found_again(tmp_path: Path) -> None:
    known = taking(40, 50).with_start(replace(KIND, how=How.WAKE_1), Start(at=9, seconds=2))
    write(str(tmp_path), known)

    assert read(str(tmp_path)) == known


def test_median_of_the_last_few_is_expected() -> None:
    assert taking().seconds(KIND) is None
    assert taking(40).seconds(KIND) == 40
    assert taking(40, 400, 42).seconds(KIND) == 42
    assert taking(*range(100, 100 + 3 * KEPT)).seconds(KIND) == 100 + 3 * KEPT - (KEPT + 1) / 2
    assert taking(40, 400, 42).phases(KIND) == {"load": 41, "graphs": 1}
    assert taking().phases(KIND) == {}
    assert taking(40).seconds(replace(KIND, how=How.WAKE_2)) is None


def test_a_phase_that_only_some_starts_have_counts_where_it_was() -> None:
    known = taking(40, 50).with_start(KIND, Start(at=9, seconds=90, phases={"download": 60, "load": 30}))
    assert known.phases(KIND) == {"download": 60, "load": 39}


def test_the_file_does_not_grow_for_ever() -> None:
    known = Starts()
    for number in range(MOST + 5):
        known = known.with_start(replace(KIND, model=f"m{number}"), Start(at=1, seconds=1))
    assert len(known.starts) == MOST
    assert replace(KIND, model="m0") not in known.starts


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "\xff\xfe", "[" * 100_000, '{"a": "' + "x" * 2**23 + '"}'),
        *('{"version": 0, "starts": []}', '{"version": "1", "starts": []}', '{"version": 1}'),
    ],
)
def test_a_damaged_or_foreign_file_is_reported_and_replaced(tmp_path: Path, content: str) -> None:
    path(str(tmp_path)).parent.mkdir()
    path(str(tmp_path)).write_text(content, encoding="latin-1")

    found = read(str(tmp_path))
    assert (found.starts, str(path(str(tmp_path))) in found.problem) == ({}, True)
    write(str(tmp_path), found.with_start(KIND, Start(at=1, seconds=2)))
    assert read(str(tmp_path)).seconds(KIND) == 2


def test_the_file_of_a_newer_berth_is_left_alone(tmp_path: Path) -> None:
    newer = json.dumps({"version": STARTS_VERSION + 1, "what": "ever"})
    path(str(tmp_path)).parent.mkdir()
    path(str(tmp_path)).write_text(newer)

    found = read(str(tmp_path)).with_start(KIND, Start(at=1, seconds=2))
    assert "newer Berth (version 2)" in found.problem
    write(str(tmp_path), found)
    assert (path(str(tmp_path)).read_text(), found.seconds(KIND)) == (newer, 2)


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    path(str(tmp_path)).mkdir(parents=True)
    assert "Is a directory" in read(str(tmp_path)).problem


@pytest.mark.parametrize(
    "spoiled",
    [
        *({"seconds": -1}, {"seconds": LONGEST_S * 2}, {"seconds": "x"}, {"seconds": None}, {"phases": {"a": -1}}),
        *({"phases": {str(number): 1 for number in range(100)}}, {"at": "x"}, {}),
    ],
)
def test_only_sound_starts_are_taken(tmp_path: Path, spoiled: dict[str, object]) -> None:
    good = {"at": 1, "seconds": 3.5, "phases": {}}
    rows = [
        {"of": msgspec.to_builtins(KIND), "starts": [{**good, **spoiled} if spoiled else {}]},
        {"of": msgspec.to_builtins(replace(KIND, model="other")), "starts": [good]},
        *(None, 7, {}),
    ]
    path(str(tmp_path)).parent.mkdir()
    path(str(tmp_path)).write_text(json.dumps({"version": STARTS_VERSION, "starts": rows}))

    assert list(read(str(tmp_path)).starts) == [replace(KIND, model="other")]


def test_a_start_counts_for_the_same_only() -> None:
    one = make_replica("r", launch=None)
    of = MeasuredAs(engine=EngineName.VLLM, version="1", gpu_kind="x", gpus=1, model="m", arguments="")
    kinds = {
        kind_of(one, How.COLD),
        kind_of(one, How.WAKE_1),
        kind_of(replace(one, model="other"), How.COLD),
        kind_of(replace(one, weights="w"), How.COLD),
        kind_of(replace(one, measured_as=of), How.COLD),
        kind_of(replace(one, measured_as=replace(of, version="2")), How.COLD),
    }
    assert len(kinds) == 6
    assert kind_of(one, How.COLD) == kind_of(replace(one, name="r-2", url="http://127.0.0.1:9"), How.COLD)
    assert starts.path("/data").name == "starts.json"

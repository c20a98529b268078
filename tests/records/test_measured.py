"""The file of measurements: kept, found again, and whatever else may be in its place."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.plan import EngineName, MeasuredAs
from berth.records.measured import MEASURED_VERSION, MOST, Measurement, keep, path, read

GIB = 2**30
OF = MeasuredAs(engine=EngineName.VLLM, version="0.33.0", gpu_kind="H100, 9.0", gpus=1, model="a/b@1", arguments="d")
ONE = Measurement(
    of=OF, at=1, weights_bytes=15 * GIB, overhead_bytes=2 * GIB, kv_bytes=50 * GIB, kv_tokens=400_000, context=40_960
)


def test_a_measurement_is_found_again(tmp_path: Path) -> None:
    other = replace(ONE, of=replace(OF, gpus=2))
    keep(str(tmp_path), ONE)
    keep(str(tmp_path), other)

    found = read(str(tmp_path))

    assert (found.find(OF), found.find(other.of), found.problem) == (ONE, other, "")


@pytest.mark.parametrize(
    "changed",
    [
        {"engine": EngineName.SGLANG},
        {"version": "0.34.0"},
        {"gpu_kind": "H200, 9.0"},
        {"gpus": 2},
        {"model": "a/b@2"},
        {"arguments": "e"},
    ],
)
def test_it_counts_for_nothing_else(tmp_path: Path, changed: dict[str, object]) -> None:
    keep(str(tmp_path), ONE)

    assert read(str(tmp_path)).find(replace(OF, **changed)) is None  # type: ignore[arg-type] # by its names


def test_the_newest_start_replaces_the_one_before(tmp_path: Path) -> None:
    keep(str(tmp_path), ONE)
    keep(str(tmp_path), replace(ONE, at=2, overhead_bytes=3 * GIB))

    assert read(str(tmp_path)).measurements == (replace(ONE, at=2, overhead_bytes=3 * GIB, starts=2),)


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    rows = [msgspec.to_builtins(replace(ONE, at=number, of=replace(OF, model=f"m{number}"))) for number in range(MOST)]
    path(str(tmp_path)).parent.mkdir()
    path(str(tmp_path)).write_text(json.dumps({"version": MEASURED_VERSION, "measurements": rows}))

    keep(str(tmp_path), replace(ONE, at=MOST))

    found = read(str(tmp_path))
    assert len(found.measurements) == MOST
    assert found.find(replace(OF, model="m0")) is None


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "\xff\xfe", "[" * 100_000, '{"a": "' + "x" * 2**23 + '"}'),
        *('{"version": 0, "measurements": []}', '{"version": "1", "measurements": []}'),
        *('{"version": 1}', '{"version": 1, "measurements": {}}'),
    ],
)
def test_a_damaged_or_foreign_file_counts_as_empty_and_is_replaced(tmp_path: Path, content: str) -> None:
    path(str(tmp_path)).parent.mkdir()
    path(str(tmp_path)).write_text(content, encoding="latin-1")

    assert read(str(tmp_path)).measurements == ()
    assert str(path(str(tmp_path))) in read(str(tmp_path)).problem
    keep(str(tmp_path), ONE)
    assert read(str(tmp_path)).measurements == (ONE,)


def test_the_file_of_a_newer_berth_is_left_alone(tmp_path: Path) -> None:
    newer = json.dumps({"version": MEASURED_VERSION + 1, "what": "ever"})
    path(str(tmp_path)).parent.mkdir()
    path(str(tmp_path)).write_text(newer)

    assert "newer Berth (version 2)" in read(str(tmp_path)).problem
    with pytest.raises(ValueError, match="newer Berth"):
        keep(str(tmp_path), ONE)
    assert path(str(tmp_path)).read_text() == newer


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    path(str(tmp_path)).mkdir(parents=True)

    assert "Is a directory" in read(str(tmp_path)).problem
    with pytest.raises(OSError, match="directory"):
        keep(str(tmp_path), ONE)


ROWS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
FIGURES = st.sampled_from(["weights_bytes", "overhead_bytes", "graphs_bytes", "kv_bytes", "kv_tokens", "context", "of"])


@given(st.lists(ROWS, max_size=3), FIGURES, st.integers(max_value=-1) | st.integers(min_value=2**60) | st.text())
def test_only_sound_measurements_are_taken(
    tmp_path_factory: pytest.TempPathFactory, rows: list[object], figure: str, value: object
) -> None:
    folder = str(tmp_path_factory.getbasetemp())
    spoiled = {**msgspec.to_builtins(ONE), figure: value}
    if figure in ("kv_tokens", "context") and isinstance(value, int):
        spoiled[figure] = min(value, 0)
    content = {"version": MEASURED_VERSION, "measurements": [*rows, spoiled, msgspec.to_builtins(ONE)]}
    path(folder).parent.mkdir(exist_ok=True)
    path(folder).write_text(json.dumps(content))

    assert read(folder).measurements == (ONE,)

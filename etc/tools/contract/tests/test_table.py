"""Snapshots as files."""

from pathlib import Path

import pytest

from etc.tools.contract.table import SNAPSHOTS, Deprecation, Option, Snapshot, option_from, read, read_all, text, write

PORT = Option(flags=("--port",), dest="port", type="int", default=8000)
MODEL = Option(dest="model", required=True)
OLD = Option(flags=("-o", "--old"), dest="old", nargs=0, choices=(), deprecated=Deprecation.WARNS)


def snapshot(*options: Option) -> Snapshot:
    return Snapshot(engine="vllm", version="1.0", origin="made up", options=options, variables={"B": (), "A": ("x.y",)})


def test_snapshot_round_trip(tmp_path: Path) -> None:
    path = write(snapshot(PORT, MODEL, OLD), tmp_path / "new")

    assert path.name == "vllm-1.0.json"
    assert read(path) == snapshot(OLD, PORT, MODEL)  # in the order of their names
    assert read_all(path.parent) == [read(path)]


def test_file_has_a_line_per_option_and_variable_in_order() -> None:
    lines = text(snapshot(PORT, OLD, MODEL)).splitlines()

    assert [line for line in lines if line.startswith('{"')] == [
        '{"flags": ["-o", "--old"], "dest": "old", "nargs": 0, "deprecated": "warns"},',
        '{"flags": ["--port"], "dest": "port", "type": "int", "default": 8000},',
        '{"dest": "model", "required": true}',
    ]
    assert [line for line in lines if line.startswith(('"A"', '"B"'))] == ['"A": ["x.y"],', '"B": []']


@pytest.mark.parametrize(("option", "name"), [(PORT, "--port"), (OLD, "--old"), (MODEL, "model")])
def test_option_is_named_by_its_first_long_flag(option: Option, name: str) -> None:
    assert option.name == name


@pytest.mark.parametrize("content", ["", "{}", '{"engine": "vllm", "version": 1}'])
def test_invalid_snapshot_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)

    with pytest.raises(ValueError, match=r"a\.json is not a snapshot"):
        read(tmp_path / "a.json")


def test_parses_an_option_of_the_engines_help() -> None:
    assert option_from({"flags": ["--port"], "dest": "port", "type": "int", "default": 8000}) == PORT


@pytest.mark.parametrize("path", sorted(SNAPSHOTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_snapshots_are_in_canonical_form(path: Path) -> None:
    assert text(read(path)) == path.read_text()
    assert path.stem == f"{read(path).engine}-{read(path).version}"

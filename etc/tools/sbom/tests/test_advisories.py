"""Known vulnerabilities of the packages in a bill of materials, with a PyPI that is a table."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from etc.tools.sbom.advisories import examine, fetch_page, main

SBOM = {
    "components": [
        {"name": "starlette", "version": "1.10.0", "purl": "pkg:pypi/starlette@1.10.0"},
        {"name": "berth", "version": "0.1.0"},
    ]
}


def page(version: str, *names: str, withdrawn: str | None = None) -> Mapping[str, Any]:
    return {"info": {"version": version}, "vulnerabilities": [{"id": name, "withdrawn": withdrawn} for name in names]}


@pytest.mark.parametrize(
    ("pages", "advisories"),
    [
        ({"p/1.0/json": page("1.0")}, ()),
        ({"p/1.0/json": page("1.0", "PYSEC-2", "GHSA-1")}, ("GHSA-1", "PYSEC-2")),
        ({"p/1.0/json": page("1.0", "GHSA-1", withdrawn="2026-01-01")}, ()),
        ({"p/json": page("1.0", "GHSA-1")}, ("GHSA-1",)),
        ({"p/json": page("1.1")}, None),
        ({}, None),
    ],
    ids=["nothing", "two", "withdrawn", "by the newest release's page", "of another release", "unknown"],
)
def test_looks_up_a_package(pages: Mapping[str, Mapping[str, Any]], advisories: tuple[str, ...] | None) -> None:
    assert examine("p", "1.0", pages.get).advisories == advisories


@pytest.mark.parametrize(
    ("pages", "code", "said"),
    [
        ({"starlette/1.10.0/json": page("1.10.0")}, 0, "1 packages, 1 without a known vulnerability"),
        ({"starlette/1.10.0/json": page("1.10.0", "GHSA-1")}, 1, "starlette 1.10.0: GHSA-1"),
        ({}, 1, "starlette 1.10.0: could not be looked up"),
    ],
)
def test_command_fails_on_known_and_unchecked_advisories(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pages: Mapping[str, Mapping[str, Any]],
    code: int,
    said: str,
) -> None:
    (tmp_path / "sbom.json").write_text(json.dumps(SBOM))
    assert main(tmp_path / "sbom.json", tmp_path / "report.json", pages.get) == code
    output = capsys.readouterr()
    assert said in output.out + output.err
    assert [entry["name"] for entry in json.loads((tmp_path / "report.json").read_text())] == ["starlette"]


def test_unreachable_index_returns_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYPI_JSON_URL", f"file://{tmp_path}")
    assert fetch_page("p/json") is None
    (tmp_path / "p").mkdir()
    (tmp_path / "p/json").write_text("<html>")
    assert fetch_page("p/json") is None
    (tmp_path / "p/json").write_text('{"info": {}}')
    assert fetch_page("p/json") == {"info": {}}

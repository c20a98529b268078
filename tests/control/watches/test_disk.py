"""A run directory that becomes full."""

import os
from pathlib import Path

import pytest

from berth.control.watches.disk import RunDirectory
from berth.state import FULL_BYTES


def test_reports_the_free_space(tmp_path: Path) -> None:
    free = RunDirectory(str(tmp_path)).free_bytes()
    assert free is not None
    assert free > FULL_BYTES
    assert RunDirectory(str(tmp_path / "none")).free_bytes() is None


def test_logs_each_change_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory, blocks = RunDirectory(str(tmp_path)), iter([FULL_BYTES, FULL_BYTES - 1, 0, FULL_BYTES, FULL_BYTES])
    real = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result((1, 1, *real[2:4], next(blocks), *real[5:])))
    with caplog.at_level("INFO", "berth"):
        for _ in range(5):
            directory.free_bytes()
    assert [record.message for record in caplog.records] == [
        "run directory full, engine logs and stored responses are lost",
        "run directory has space again",
    ]

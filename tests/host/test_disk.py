"""Free space, and folders that cannot be written."""

import errno
import os
from pathlib import Path

import pytest

from berth.errors import UnwritableError
from berth.host.disk import RESERVE_BYTES, existing, free_disk, require_room, room_problem, write_problem, writing

GIB = 2**30


@pytest.mark.parametrize(("missing", "free"), [(0, 0), (5 * GIB, None), (5 * GIB, 5 * GIB + RESERVE_BYTES)])
def test_no_problem_where_it_fits_or_free_space_is_unknown(missing: int, free: int | None) -> None:
    assert room_problem(missing, free, "/data") == ""


def test_reports_missing_space_and_what_to_do() -> None:
    problem = room_problem(20 * GIB, 5 * GIB, "/data")
    assert "take 20.0 GiB more, and '/data' has 5.0 GiB free. Free 15.2 GiB there, give BERTH_DATA a larger" in problem


def test_measures_a_real_disk(tmp_path: Path) -> None:
    require_room(1, tmp_path / "not" / "there")
    with pytest.raises(UnwritableError, match="the models take"):
        require_room(2**60, tmp_path)


def test_free_disk_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_disk(str(tmp_path / "a" / "b")) == pytest.approx(free_disk(str(tmp_path)), rel=0.1)
    assert (free_disk(str(tmp_path)) or 0) > 0


def test_unreadable_disk_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: object) -> None:
        raise PermissionError(path)

    monkeypatch.setattr("shutil.disk_usage", fail)

    assert free_disk("/") is None


def test_names_the_owner_and_the_way_to_change_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "x"))

    detail, remedy = write_problem("BERTH_DATA", str(tmp_path), error)

    uid = os.geteuid()
    assert f"BERTH_DATA={str(tmp_path)!r} cannot be written as user {uid}: {str(tmp_path / 'x')!r}: Perm" in detail
    assert f"({str(tmp_path)!r} belongs to user {tmp_path.stat().st_uid}, mode 750)" in detail
    assert f"docker run --rm --user 0 -v VOLUME:{tmp_path} --entrypoint chown IMAGE -R {uid} {tmp_path}" in remedy
    assert "start the container with --user 0" in remedy


def test_uses_the_nearest_visible_folder_above(monkeypatch: pytest.MonkeyPatch) -> None:
    def exists(path: Path) -> bool:
        if str(path) != "/":
            raise PermissionError
        return True

    monkeypatch.setattr(Path, "exists", exists)
    assert existing("/hidden/data") == Path("/")
    monkeypatch.setattr(Path, "exists", lambda _path: False)
    assert existing("/hidden/data") == Path("/")


def test_os_error_becomes_an_error_about_the_directory(tmp_path: Path) -> None:
    with (
        pytest.raises(UnwritableError, match=r"BERTH_DATA='.*' cannot be written .*: Is a directory. Give user"),
        writing("BERTH_DATA", str(tmp_path)),
    ):
        tmp_path.write_text("")

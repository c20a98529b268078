"""Room on the disk."""

from pathlib import Path

import pytest

from berth.errors import UnwritableError
from berth.host.disk import RESERVE_BYTES, require_room, room_problem

GIB = 2**30


@pytest.mark.parametrize(("missing", "free"), [(0, 0), (5 * GIB, None), (5 * GIB, 5 * GIB + RESERVE_BYTES)])
def test_what_fits_or_cannot_be_judged_is_no_problem(missing: int, free: int | None) -> None:
    assert room_problem(missing, free, "/data") == ""


def test_a_small_disk_is_told_with_the_sum_and_what_to_do() -> None:
    problem = room_problem(20 * GIB, 5 * GIB, "/data")
    assert "take 20.0 GiB more, and '/data' has 5.0 GiB free. Free 15.2 GiB there, give BERTH_DATA a larger" in problem


def test_a_real_disk_is_measured(tmp_path: Path) -> None:
    require_room(1, tmp_path / "not" / "there")
    with pytest.raises(UnwritableError, match="the models take"):
        require_room(2**60, tmp_path)

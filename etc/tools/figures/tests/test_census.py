"""Counts of files and functions."""

from pathlib import Path

from etc.tools.figures.census import Spread, is_within, take
from etc.tools.figures.helpers import one_use_helpers
from etc.tools.figures.source import read_package

TEXT = """
def _branchy(rows, flag):
    assert rows
    for row in rows:
        if row and flag or not row:
            return [cell for cell in row if cell]
    return 1 if flag else 2


class A:
    async def whole(self):
        return _branchy((), True)
"""


def test_counts_what_is_in_each_folder(tmp_path: Path) -> None:
    (tmp_path / "pack" / "inner").mkdir(parents=True)
    (tmp_path / "pack" / "a.py").write_text(TEXT)
    (tmp_path / "pack" / "inner" / "b.py").write_text("def long():\n" + "    x = 1\n" * 41)
    files = read_package(tmp_path / "pack")
    whole, inner = take(files, one_use_helpers(files))
    assert (whole.path, whole.files, whole.lines, whole.functions) == ("pack", 2, 54, 3)
    assert (whole.private, whole.one_use_helpers, whole.long, whole.too_long) == (1, 1, 1, 1)
    assert whole.length == Spread(median=6, p90=42, most=42)
    assert whole.complexity.most == 9  # assert, for, if, and, or, comprehension with its if, conditional expression
    assert (inner.path, inner.functions, inner.one_use_helpers) == ("pack/inner", 1, 0)


def test_an_empty_package_has_no_functions(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (whole,) = take(read_package(tmp_path / "pack"), ())
    assert (whole.functions, whole.one_use_share, whole.length.most) == (0, 0, 0)


def test_a_folder_holds_what_is_below_it() -> None:
    assert is_within("berth/boot/a.py", "berth/boot/")
    assert is_within("berth/boot/a.py", "berth/boot/a.py")
    assert not is_within("berth/bootstrap.py", "berth/boot")

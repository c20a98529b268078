"""Which private helpers count as used once."""

from pathlib import Path

import pytest

from etc.tools.figures.helpers import one_use_helpers
from etc.tools.figures.source import read_package

CASES = {
    "a function that is called once": ("def _f(): ...\ndef g(): _f()\n", ["_f"]),
    "one that is handed over": ("def _f(x): ...\ndef g(): return map(_f, ())\n", ["_f"]),
    "one that calls itself too": ("def _f(): _f()\ndef g(): _f()\n", ["_f"]),
    "one with two uses": ("def _f(): ...\ndef g(): _f(); _f()\n", []),
    "one that nothing uses": ("def _f(): ...\n", []),
    "a public one": ("def f(): ...\ndef g(): f()\n", []),
    "a method": ("class A:\n    def _f(self): ...\n    def g(self): self._f()\n", ["A._f"]),
    "a dunder": ("class A:\n    def __len__(self): ...\n    def g(self): self.__len__()\n", []),
    "a nested function": ("def g():\n    def _f(): ...\n    _f()\n", ["g._f"]),
    "an override": (
        "class A:\n    def _f(self): ...\n    def g(self): self._f()\nclass B(A):\n    def _f(self): ...\n",
        ["A._f"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_counts_helpers_with_one_use(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert _found(tmp_path, {"a.py": text}) == expected


def test_does_not_count_what_another_file_imports(tmp_path: Path) -> None:
    used = "def _f(): ...\ndef g(): _f()\n"
    assert _found(tmp_path, {"a.py": used, "b.py": used}) == ["_f", "_f"]
    assert _found(tmp_path, {"a.py": used, "b.py": "from pack.a import _f\n"}) == []


def test_names_the_place_and_the_user(tmp_path: Path) -> None:
    _write(tmp_path, {"a.py": "def _f():\n    return 1\n\n\nclass A:\n    def g(self): return _f()\n"})
    (helper,) = one_use_helpers(read_package(tmp_path / "pack"))
    assert helper.text == "pack/a.py:1  _f  2 lines, used by A.g (line 6)"


def _found(folder: Path, files: dict[str, str]) -> list[str]:
    _write(folder, files)
    return [helper.function.qualified for helper in one_use_helpers(read_package(folder / "pack"))]


def _write(folder: Path, files: dict[str, str]) -> None:
    (folder / "pack").mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / "pack" / name).write_text(text)

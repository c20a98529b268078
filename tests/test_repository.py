"""What the folders promise is true."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "berth").rglob("*.py"))
MARKS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for_and_leaves_nothing_undone(path: Path) -> None:
    text = path.read_text()
    assert MARKS.search(text) is None
    assert ast.get_docstring(ast.parse(text)), "no module docstring"

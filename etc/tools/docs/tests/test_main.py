"""`make docs`: the generated tables are current, and stand between their markers."""

import pytest

from etc.tools.docs.__main__ import ROOT, generated, insert

BEGIN, END = "<!-- t:begin -->", "<!-- t:end -->"


def test_the_files_are_current() -> None:
    for path, text in generated(ROOT).items():
        assert path.read_text() == text, f"{path} is old: run `make docs`"


def test_a_table_replaces_the_one_between_its_markers() -> None:
    fresh = insert(f"# Page\n\n{BEGIN}\nold\n{END}\n\nend\n", "t", "| new |\n")
    assert fresh == f"# Page\n\n{BEGIN}\n| new |\n{END}\n\nend\n"
    assert insert(fresh, "t", "| new |\n") == fresh


@pytest.mark.parametrize("text", ["", BEGIN, END, END + BEGIN, BEGIN + BEGIN + END])
def test_a_page_without_its_markers_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="must have one"):
        insert(text, "t", "")

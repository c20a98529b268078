"""Forms of Berth are measured beside each other, each by a process of its own."""

from pathlib import Path

import pytest

from etc.tools.figures.forms import MEASURES, ROOT, Comparison, compare, text

FOUND = Comparison(parts={"request": {"a": [50.0, 40.0, 60.0], "b": [30.0, 28.0, 33.0]}})


@pytest.mark.timeout(120)
def test_each_form_is_measured_with_each_load() -> None:
    found = compare([str(ROOT)], rounds=1)
    assert tuple(found.parts) == MEASURES
    assert all(found.least(measure, str(ROOT)) > 0 for measure in MEASURES)


def test_the_ratio_is_that_of_the_same_round() -> None:
    assert FOUND.ratio("request", "b", "a") == 0.6
    assert FOUND.least("request", "b") == 28.0


def test_each_form_has_a_line() -> None:
    assert text(FOUND).splitlines()[1:] == [
        "request",
        "  a                        40.00    50.00            1.000x",
        "  b                        28.00    30.00            0.600x",
    ]


def test_a_folder_without_berth_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"has no package berth: name a clone, or its \.compiled"):
        compare([str(tmp_path)], rounds=1)

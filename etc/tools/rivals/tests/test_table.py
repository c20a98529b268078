import math

import pytest

from etc.tools.rivals.table import number, rounded, table, times


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.2849, "0.28"),
        (2.849, "2.85"),
        (28.49, "28.5"),
        (284.9, "285"),
        (28490.4, "28,490"),
        (0.0, "-"),
        (math.nan, "-"),
    ],
)
def test_three_digits_are_shown(value: float, shown: str) -> None:
    assert rounded(value) == shown


def test_what_is_no_number_is_a_dash() -> None:
    assert (number(math.nan), times(math.nan), number(0.0), times(1.5)) == ("-", "-", "0", "1.50x")


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    shown = "         us\n-----  ----\nnginx  20.9\nb         7"
    assert table(["", "us"], [["nginx", "20.9"], ["b", "7"]]) == shown

"""Figures as text: columns of equal width, a dash for what there is no figure for. Pure."""

import math
from collections.abc import Sequence

NONE = "-"


def number(value: float, digits: int = 0) -> str:
    return NONE if math.isnan(value) else f"{value:,.{digits}f}"


def rounded(value: float) -> str:
    """With three digits that mean something."""
    if math.isnan(value) or not value:
        return NONE
    digits = 2 - math.floor(math.log10(abs(value)))
    return number(value, min(2, max(0, digits)))


def times(value: float) -> str:
    """A ratio."""
    return NONE if math.isnan(value) else f"{value:.2f}x"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column is flush left, the others are flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [_line(row, widths) for row in (header, ["-" * width for width in widths], *rows)]
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()

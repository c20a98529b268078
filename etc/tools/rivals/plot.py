"""The results as a picture: SVG, written by hand. Pure.

One panel for each figure, one row for each router, a dot for each round and a bar at the median. The axis is
logarithmic, since the slowest router needs a hundred times as much as the fastest.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from etc.tools.rivals.columns import DIRECT, cpu_us, first_p50_ms, gap_p99_ms, pss_mb
from etc.tools.rivals.compare import Comparison
from etc.tools.rivals.figures import median
from etc.tools.rivals.loads import REQUESTS, STREAMS
from etc.tools.rivals.table import rounded

_WIDTH, _LEFT, _RIGHT = 860, 130, 90
_ROW, _TITLE, _AXIS, _GAP = 26, 34, 22, 18
_BERTH_COLOUR, _COLOUR, _GRID = "#0b6e4f", "#5b6770", "#d8dde1"

PANELS = (
    ("CPU per request, microseconds", REQUESTS, cpu_us),
    ("CPU per streamed token, microseconds", STREAMS, cpu_us),
    ("Time to the first token, median, milliseconds (the upstream's own: 20)", STREAMS, first_p50_ms),
    ("Time from token to token, 99th percentile, milliseconds (the upstream's own: 20)", STREAMS, gap_p99_ms),
    ("Memory of the largest process after the streams, PSS, megabytes", STREAMS, pss_mb),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    title: str
    rows: tuple[tuple[str, tuple[float, ...]], ...]  # router, and a figure of each round

    @property
    def height(self) -> int:
        return _TITLE + _ROW * len(self.rows) + _AXIS + _GAP


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Logarithmic, from one power of ten to another."""

    low: int
    high: int

    @classmethod
    def over(cls, values: Sequence[float]) -> "Axis":
        low = math.floor(math.log10(min(values)))
        return cls(low=low, high=max(low + 1, math.ceil(math.log10(max(values)))))

    def x(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    @property
    def marks(self) -> list[float]:
        return [10.0**power for power in range(self.low, self.high + 1)]


def panels(comparison: Comparison) -> list[Panel]:
    """Those for which there are figures; what is 0 or unknown has no place on such an axis."""
    found = []
    for title, load, figure in PANELS:
        figures = comparison.figures(load)
        values = {router: tuple(v for v in figures.rounds(router, figure) if v > 0) for router in figures.measurements}
        rows = tuple((router, points) for router, points in values.items() if points)
        if any(router != DIRECT for router, _ in rows):
            found.append(Panel(title=title, rows=rows))
    return found


def svg(found: Sequence[Panel], caption: str) -> str:
    height = sum(panel.height for panel in found) + 30
    size = f'width="{_WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
        f'<rect {size} fill="white"/>',
    ]
    top = 0
    for panel in found:
        lines += _panel(panel, top)
        top += panel.height
    lines += [_text(_WIDTH / 2, top + 14, caption, anchor="middle", colour=_COLOUR), "</svg>"]
    return "\n".join(lines) + "\n"


def _panel(panel: Panel, top: int) -> Iterator[str]:
    axis = Axis.over([value for _, values in panel.rows for value in values])
    first, last = top + _TITLE, top + _TITLE + _ROW * len(panel.rows)
    yield _text(12, top + 22, panel.title, weight="bold")
    for mark in axis.marks:
        x = axis.x(mark)
        yield f'<line x1="{x:.1f}" y1="{first}" x2="{x:.1f}" y2="{last}" stroke="{_GRID}"/>'
        yield _text(x, last + 15, f"{mark:g}", anchor="middle", colour=_COLOUR)
    for place, (router, values) in enumerate(panel.rows):
        yield from _row(router, values, axis, first + _ROW * place + _ROW / 2)


def _row(router: str, values: Sequence[float], axis: Axis, y: float) -> Iterator[str]:
    colour = _BERTH_COLOUR if router.startswith("berth") else _COLOUR
    yield _text(_LEFT - 12, y + 4, router, anchor="end", colour=colour)
    for value in values:
        yield f'<circle cx="{axis.x(value):.1f}" cy="{y:.1f}" r="4" fill="{colour}" fill-opacity="0.45"/>'
    middle = median(values)
    x = axis.x(middle)
    yield f'<line x1="{x:.1f}" y1="{y - 9:.1f}" x2="{x:.1f}" y2="{y + 9:.1f}" stroke="{colour}" stroke-width="3"/>'
    yield _text(max(map(axis.x, values)) + 10, y + 4, rounded(middle), colour=colour)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "black", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )

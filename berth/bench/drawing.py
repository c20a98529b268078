"""Charts as SVG; pure. They need no script and no network, so that they can be printed and mailed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 46, 44
_LETTER = 6.4  # how wide one of a small text is, about
COLOURS = ("#0b62a4", "#d1650f", "#3a7d34", "#8a3a8f", "#b02a37", "#5b5b5b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One value; `low` and `high` are its interval, if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    name: str
    marks: tuple[Mark, ...]
    line: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    rules: tuple[tuple[float, str], ...] = ()  # horizontal lines, with their names
    from_zero: bool = True


def svg(chart: Chart) -> str:
    """The chart; nothing without values."""
    marks = [mark for one in chart.series for mark in one.marks]
    if not marks:
        return ""
    scale = _Scale.of(chart, marks)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(chart.title)}</title>",
        f'<text x="{_LEFT}" y="16" class="title">{escape(chart.title)}</text>',
        *axes(chart, scale),
    ]
    for y, name in chart.rules:
        at = scale.y(y)
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="rule"/>')
        parts.append(f'<text x="{_LEFT + 4}" y="{at - 4:.1f}" class="small">{escape(name)}</text>')
    at = float(_LEFT)
    for number, one in enumerate(chart.series):
        colour = COLOURS[number % len(COLOURS)]
        parts += shapes(one, colour, scale)
        parts.append(f'<text x="{at:.0f}" y="32" class="small" fill="{colour}">● {escape(one.name)}</text>')
        at += _LETTER * (len(one.name) + 5)
    return "".join(parts) + "</svg>"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    left: float
    right: float
    bottom: float
    top: float

    @classmethod
    def of(cls, chart: Chart, marks: Sequence[Mark]) -> "_Scale":
        xs = [mark.x for mark in marks]
        ys = [value for mark in marks for value in (mark.y, mark.low, mark.high) if value is not None]
        ys += [y for y, _name in chart.rules]
        low, high = (0.0 if chart.from_zero else min(ys)), max(ys)
        room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
        left, right = (0.0 if chart.from_zero else min(xs)), max(xs)
        aside = (right - left) * 0.05 or 0.5
        return cls(
            left=left if chart.from_zero else left - aside,
            right=right + aside,
            bottom=low if chart.from_zero else low - room,
            top=high + room,
        )

    def x(self, value: float) -> float:
        return _LEFT + (value - self.left) / (self.right - self.left) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.bottom) / (self.top - self.bottom) * (HEIGHT - _TOP - _BOTTOM)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values between the two."""
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step)
    return [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]


def axes(chart: Chart, scale: _Scale) -> Iterator[str]:
    bottom = HEIGHT - _BOTTOM
    for value in ticks(scale.bottom, scale.top):
        at = scale.y(value)
        yield f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>'
        yield f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" class="small" text-anchor="end">{value:g}</text>'
    for value in ticks(scale.left, scale.right):
        at = scale.x(value)
        yield f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}" class="axis"/>'
        yield f'<text x="{at:.1f}" y="{bottom + 16}" class="small" text-anchor="middle">{value:g}</text>'
    yield f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}" class="axis"/>'
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    yield f'<text x="{middle:.0f}" y="{HEIGHT - 8}" class="small" text-anchor="middle">{escape(chart.x)}</text>'
    yield (
        f'<text x="14" y="{HEIGHT / 2:.0f}" class="small" text-anchor="middle" '
        f'transform="rotate(-90 14 {HEIGHT / 2:.0f})">{escape(chart.y)}</text>'
    )


def shapes(one: Series, colour: str, scale: _Scale) -> Iterator[str]:
    places = [(scale.x(mark.x), scale.y(mark.y)) for mark in one.marks]
    if one.line and len(places) > 1:
        shown = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{shown}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for mark, (x, y) in zip(one.marks, places, strict=True):
        if mark.low is not None and mark.high is not None:
            low, high = scale.y(mark.low), scale.y(mark.high)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}" stroke-width="2"/>'
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'

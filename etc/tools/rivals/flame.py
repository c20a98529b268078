"""Stacks as a flame picture: SVG, written by hand, without scripts. Pure.

A box for each function below the one that called it, as wide as its part of all samples; the functions that run
themselves are at the lower ends. Of siblings the one with most samples is on the left. The pointer shows the whole name
of a box and its share.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

_WIDTH: Final = 1200
_ROW: Final = 17
_TITLE: Final = 30
_LETTER: Final = 6.6  # the width of one, in the font below
_LEAST: Final = 0.4  # narrower boxes are left out
_BERTH, _OTHER = ("#f2b25a", "#eb9b3c"), ("#c9d3da", "#b7c4cd")  # of neighbouring rows


@dataclass(slots=True, kw_only=True)
class Frame:
    """A function, as called by those above it."""

    name: str
    samples: int = 0  # it, or what it had called, was running
    callees: dict[str, "Frame"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    name: str
    depth: int
    left: float  # shares of all samples
    share: float


def tree(stacks: Iterable[str]) -> Frame:
    """From lines like `a;b;c 12`, the innermost function last."""
    root = Frame(name="all")
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        frame = root
        frame.samples += int(count)
        for name in stack.split(";"):
            frame = frame.callees.setdefault(name, Frame(name=name))
            frame.samples += int(count)
    return root


def boxes(root: Frame) -> list[Box]:
    """Those that are wide enough to be seen, row by row."""
    found, row, least = [], [(root, 0.0)], _LEAST / _WIDTH
    for depth in range(1000):
        following = []
        for frame, left in row:
            found.append(Box(name=frame.name, depth=depth, left=left, share=frame.samples / root.samples))
            place = left
            for callee in sorted(frame.callees.values(), key=lambda one: (-one.samples, one.name)):
                share = callee.samples / root.samples
                if share >= least:
                    following.append((callee, place))
                place += share
        if not following:
            break
        row = following
    return found


def picture(stacks: Iterable[str], title: str) -> str:
    """The SVG; only its title without samples."""
    root = tree(stacks)
    shown = boxes(root) if root.samples else []
    height = _TITLE + _ROW * (max((box.depth for box in shown), default=-1) + 2)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'font-family="monospace" font-size="11">'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="8" y="20" font-size="14">{escape(title)}: {root.samples} samples</text>'
    )
    return "\n".join([head, *(line for box in shown for line in _drawn(box)), "</svg>\n"])


def _drawn(box: Box) -> Iterator[str]:
    x, y, width = box.left * _WIDTH, _TITLE + box.depth * _ROW, box.share * _WIDTH
    colours = _BERTH if "berth" in box.name else _OTHER
    name = escape(box.name)
    yield f'<g><title>{name} ({box.share:.1%})</title><rect x="{x:.1f}" y="{y}" width="{max(width - 0.3, 0.1):.1f}"'
    yield f' height="{_ROW - 1}" fill="{colours[box.depth % 2]}"/>'
    if (letters := int((width - 6) / _LETTER)) >= 3:
        text = box.name if len(box.name) <= letters else f"{box.name[: letters - 2]}.."
        yield f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(text)}</text>'
    yield "</g>"

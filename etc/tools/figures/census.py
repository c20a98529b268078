"""Counts of what is written: files, functions, their lengths and complexity, and private helpers with one use."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from etc.tools.figures.helpers import Helper
from etc.tools.figures.source import SourceFile, functions_of

LONG, TOO_LONG = 25, 40  # lines of a function
COMPLEX = 10


@dataclass(frozen=True, kw_only=True)
class Spread:
    median: int
    p90: int
    most: int


@dataclass(frozen=True, kw_only=True)
class Census:
    """Of one folder with all below it."""

    path: str
    files: int
    lines: int
    functions: int
    length: Spread  # of the functions, in lines
    long: int  # functions of more than LONG lines
    too_long: int
    complexity: Spread
    complex: int  # functions of a complexity above COMPLEX
    private: int
    one_use_helpers: int

    @property
    def one_use_share(self) -> float:
        return self.one_use_helpers / max(self.functions, 1)


def take(files: Sequence[SourceFile], helpers: Sequence[Helper]) -> tuple[Census, ...]:
    """Of the whole, then of each folder that holds Python files."""
    paths = sorted({file.folder for file in files})
    return tuple(_of(path, files, helpers) for path in paths)


def is_within(path: str, folder: str) -> bool:
    """Whether it is that file, or is in that folder."""
    return path == folder.rstrip("/") or path.startswith(f"{folder.rstrip('/')}/")


def _of(path: str, files: Sequence[SourceFile], helpers: Sequence[Helper]) -> Census:
    inside = [file for file in files if is_within(file.path, path)]
    functions = functions_of(inside)
    return Census(
        path=path,
        files=len(inside),
        lines=sum(file.lines for file in inside),
        functions=len(functions),
        length=_spread(function.lines for function in functions),
        long=sum(function.lines > LONG for function in functions),
        too_long=sum(function.lines > TOO_LONG for function in functions),
        complexity=_spread(function.complexity for function in functions),
        complex=sum(function.complexity > COMPLEX for function in functions),
        private=sum(function.is_private for function in functions),
        one_use_helpers=sum(is_within(helper.function.path, path) for helper in helpers),
    )


def _spread(numbers: Iterable[int]) -> Spread:
    ordered = sorted(numbers) or [0]
    return Spread(median=ordered[len(ordered) // 2], p90=ordered[int(len(ordered) * 0.9)], most=ordered[-1])

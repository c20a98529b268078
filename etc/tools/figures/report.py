"""The figures as tables for people."""

from collections.abc import Mapping, Sequence

from etc.tools.figures.budget import BUDGETS
from etc.tools.figures.census import COMPLEX, LONG, TOO_LONG, Census, Spread
from etc.tools.figures.imports import Folder
from etc.tools.figures.table import table
from etc.tools.figures.walk import Length, Walk


def code(rows: Sequence[Census]) -> str:
    head = (
        *("folder", "files", "lines", "functions", "length med/p90/max", f"> {LONG}", f"> {TOO_LONG}"),
        *("complexity med/p90/max", f"> {COMPLEX}", "private", "one-use helpers", "share"),
    )
    return table(head, [_code_row(row) for row in rows])


def imports(rows: Sequence[Folder]) -> str:
    head = ("imports inside", "parts", "depth", "edges", "cycles")
    cells = [(row.path, row.parts, row.depth, row.edges, len(row.cycles)) for row in rows]
    cycles = [f"cycle in {row.path}: {', '.join(cycle)}" for row in rows for cycle in row.cycles]
    return "\n".join([table(head, cells), *cycles])


def _code_row(row: Census) -> tuple[object, ...]:
    return (
        *(row.path, row.files, row.lines, row.functions, _spread(row.length), row.long, row.too_long),
        *(_spread(row.complexity), row.complex, row.private, row.one_use_helpers, f"{row.one_use_share:.0%}"),
    )


def _spread(spread: Spread) -> str:
    return f"{spread.median}/{spread.p90}/{spread.most}"


def walks(lengths: Mapping[str, Length]) -> str:
    head = ("walk", "calls", "functions", "classes", "files", "changes of file")
    cells = [(name, w.calls, w.functions, w.classes, w.files, w.file_changes) for name, w in lengths.items()]
    return table(head, cells)


def budget(figures: Mapping[str, float]) -> str:
    head = ("budget", "now", "at most", "aim")
    now = {name: f"{figures[name]:g}" if name in figures else "not counted: no strace" for name in BUDGETS}
    return table(head, [(name, now[name], f"{b.most:g}", f"{b.aim:g}") for name, b in BUDGETS.items()])


def walk(steps: Walk) -> str:
    """One line per call, in order."""
    return table(("file", "function"), [(step.path, step.function) for step in steps], left=2)

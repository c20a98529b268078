"""The figures as tables for people."""

from collections.abc import Sequence

from etc.tools.figures.census import COMPLEX, LONG, TOO_LONG, Census, Spread
from etc.tools.figures.imports import Folder
from etc.tools.figures.table import table


def code(rows: Sequence[Census]) -> str:
    head = (
        *("folder", "files", "lines", "functions", "length med/p90/max", f"> {LONG}", f"> {TOO_LONG}"),
        *("complexity med/p90/max", f"> {COMPLEX}", "private", "one-use helpers", "share"),
    )
    return table(head, [_code_row(row) for row in rows])


def imports(rows: Sequence[Folder]) -> str:
    head = ("imports inside", "rooms", "floors", "arrows", "cycles")
    cells = [(row.path, row.rooms, row.floors, row.arrows, len(row.cycles)) for row in rows]
    cycles = [f"cycle in {row.path}: {', '.join(cycle)}" for row in rows for cycle in row.cycles]
    return "\n".join([table(head, cells), *cycles])


def _code_row(row: Census) -> tuple[object, ...]:
    return (
        *(row.path, row.files, row.lines, row.functions, _spread(row.length), row.long, row.too_long),
        *(_spread(row.complexity), row.complex, row.private, row.one_use_helpers, f"{row.one_use_share:.0%}"),
    )


def _spread(spread: Spread) -> str:
    return f"{spread.median}/{spread.p90}/{spread.most}"

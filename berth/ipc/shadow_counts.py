"""What router workers count of shadows: a mapped file with one row per worker, in the order of the scoreboard's rows.
A row has the CELLS of `berth.ipc.shadow` for each model of the plan, in its order. The counts of a worker that died
stay: what it counted has happened. Boot makes the file, and it lives as long as the appliance.
"""

from collections.abc import Sequence
from pathlib import Path

from berth.ipc import number_rows
from berth.ipc.shadow import PLACES, WIDTH, Counts, Skip, on_its_way
from berth.plan import Plan

Rows = Sequence["memoryview[float]"]


def reserve(plan: Plan) -> None:
    number_rows.reserve(plan.paths.shadow_counts, plan.listen.most_workers, WIDTH * len(plan.models))


def rows(plan: Plan) -> "list[memoryview[float]]":
    return number_rows.rows(plan.paths.shadow_counts, plan.listen.most_workers, WIDTH * len(plan.models))


def totals(all_rows: Rows, model: int) -> Counts:
    """Of a model, by its number in the plan, over all workers."""
    start = model * WIDTH
    sums = [sum(values) for values in zip(*(row[start : start + WIDTH] for row in all_rows), strict=True)]
    return tuple(round(value, 6) for value in sums)


def read(plan: Plan) -> dict[str, Counts]:
    """By model. Empty where the file is not there, or cannot be read."""
    path: Path = plan.paths.shadow_counts
    if not path.exists():  # it would be made
        return {}
    try:
        mapped = rows(plan)
    except OSError:
        return {}
    found = {route.name: totals(mapped, number) for number, route in enumerate(plan.models)}
    for row in mapped:
        row.release()
    return found


def lose(row: "memoryview[float]", models: int) -> None:
    """What the worker that had the row before was about to compare is lost with it."""
    for start in range(0, models * WIDTH, WIDTH):
        row[start + PLACES[f"skipped {Skip.WORKER_LOST}"]] += on_its_way(row[start : start + WIDTH])

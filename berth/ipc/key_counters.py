"""What the router's workers count for each client: a mapped file with one row of numbers per worker.

The rows are in the order of those of the scoreboard. The router decides by these numbers; control writes them down as
usage.

Each worker writes its own row only, so there are no locks and no lost updates. A sum over the rows includes those of
workers that have died: what their clients used was used. Only IN_FLIGHT ends with a worker.

A row has, one after another: KEY_WIDTH numbers for each client, USE_WIDTH for each client and public model name,
TURN_WIDTH for each client and model with its queue, and one number for each queue. The file is made by boot, and lives
as long as the appliance.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from berth.ipc import number_rows
from berth.plan import ApiKey, Plan

# Of a client. Rates are counted in seconds of the rate (berth.router.balancing.rates): USED is a sum over the rows, of
# LOST the largest counts.
REQUESTS_USED: Final = 0
REQUESTS_LOST: Final = 1
TOKENS_USED: Final = 2
TOKENS_LOST: Final = 3
IN_FLIGHT: Final = 4
CHARGED: Final = 5  # tokens that count for the limits
LAST_USED: Final = 6  # Unix seconds; the largest counts
WAIT_S: Final = 7  # in queues
WAITS: Final = 8
LIMITED: Final = 9  # requests that a limit rejected; one number for each of LIMITS
LIMITS: Final = ("requests", "tokens", "concurrency", "day", "month")
KEY_WIDTH: Final = LIMITED + len(LIMITS)

# Of a client and a public model name: requests by the class of their status, and tokens.
CLASSES: Final = ("2xx", "4xx", "429", "5xx")
SUCCEEDED, REJECTED, RATE_LIMITED, FAILED = range(4)
PROMPT: Final = 4
CACHED: Final = 5
COMPLETION: Final = 6
USE_WIDTH: Final = 7

# Of a client and a model, in the queue.
SERVED: Final = 0  # what it got, by its share; a sum
LIFTED: Final = 1  # what it gave up by being away; the largest counts
TURN_WIDTH: Final = 2

CACHED_WEIGHT: Final = 0.1  # of a prompt token that the engine had in its cache


def charge(prompt: float, cached: float, completion: float) -> float:
    """The tokens that count for limits and budgets."""
    return prompt - cached * (1 - CACHED_WEIGHT) + completion


@dataclass(frozen=True, slots=True)
class Shape:
    """Where each number is in a row."""

    slots: int
    routes: int
    models: int
    rows: int

    @classmethod
    def of(cls, plan: Plan) -> "Shape":
        return cls(plan.limits.key_slots, len(plan.routes), len(plan.models), plan.listen.most_workers)

    @property
    def uses(self) -> int:
        """The first number of the uses; those of a client have USE_WIDTH * routes."""
        return self.slots * KEY_WIDTH

    @property
    def turns(self) -> int:
        """The first number of the turns; those of a client have TURN_WIDTH * models."""
        return self.uses + self.slots * self.routes * USE_WIDTH

    @property
    def reached(self) -> int:
        """The first of the queues' numbers."""
        return self.turns + self.slots * self.models * TURN_WIDTH

    @property
    def width(self) -> int:
        return self.reached + self.models

    @property
    def row_bytes(self) -> int:
        return number_rows.row_bytes(self.width)


def reserve(path: Path, shape: Shape) -> None:
    """Replaces the file by an empty one, with its space. OSError when there is none."""
    number_rows.reserve(path, shape.rows, shape.width)


def rows(path: Path, shape: Shape) -> "list[memoryview[float]]":
    """All rows, mapped. OSError when the file cannot be used."""
    return number_rows.rows(path, shape.rows, shape.width)


def charged(all_rows: "Sequence[memoryview[float]]", keys: Iterable[ApiKey]) -> dict[int, float]:
    """What counts for the budgets of the keys that have one, by slot, since the start of Berth."""
    slots = [key.slot for key in keys if key.budgets]
    return {slot: sum(row[slot * KEY_WIDTH + CHARGED] for row in all_rows) for slot in slots}


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What one client used of one model."""

    requests: int = 0
    errors: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def __sub__(self, other: "Use") -> "Use":
        return Use(**{name: getattr(self, name) - getattr(other, name) for name in USE_FIELDS})

    def __add__(self, other: "Use") -> "Use":
        return Use(**{name: getattr(self, name) + getattr(other, name) for name in USE_FIELDS})

    @property
    def charged(self) -> float:
        return charge(self.prompt, self.cached, self.completion)


USE_FIELDS: Final = ("requests", "errors", "prompt", "cached", "completion")


def uses(all_rows: "Sequence[memoryview[float]]", shape: Shape) -> dict[tuple[int, int], Use]:
    """By the client's slot and the number of the model's name, over all rows; without what was never used."""
    found = {}
    for slot in range(shape.slots):
        for route in range(shape.routes):
            at = shape.uses + (slot * shape.routes + route) * USE_WIDTH
            numbers = [int(sum(row[at + place] for row in all_rows)) for place in range(USE_WIDTH)]
            if any(numbers):
                found[slot, route] = Use(
                    requests=sum(numbers[: len(CLASSES)]),
                    errors=numbers[REJECTED] + numbers[RATE_LIMITED] + numbers[FAILED],
                    prompt=numbers[PROMPT],
                    cached=numbers[CACHED],
                    completion=numbers[COMPLETION],
                )
    return found

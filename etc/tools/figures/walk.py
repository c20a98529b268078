"""A walk through Berth: the functions that were entered, in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An entry into a function: a call, or the resumption of a coroutine or generator."""

    path: str  # "berth/router/app.py"
    function: str  # "App.__call__"
    owner: str = ""  # the class of a method

    @property
    def place(self) -> tuple[str, str]:
        return self.path, self.function


Walk = tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a walk is. `calls` are entries, so one coroutine that waits once is two."""

    calls: int
    functions: int
    classes: int
    files: int
    file_changes: int  # from one call to the next


def length(walk: Walk) -> Length:
    return Length(
        calls=len(walk),
        functions=len({step.place for step in walk}),
        classes=len({(step.path, step.owner) for step in walk if step.owner}),
        files=len({step.path for step in walk}),
        file_changes=sum(one.path != other.path for one, other in pairwise(walk)),
    )


def usual(walks: Sequence[Walk]) -> Walk:
    """The most frequent one, which has no occasional background work in it."""
    return max(walks, key=walks.count)


def periods(walk: Walk, beat: str = "Heartbeat.beat") -> list[Walk]:
    """The parts of a walk between one call of `beat` and the next: whole periods of background work."""
    places = [place for place, step in enumerate(walk) if step.function == beat]
    return [walk[first:following] for first, following in pairwise(places)]

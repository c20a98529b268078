"""The comparison: every router before the same upstream, all of them up at once, asked in turn, round after round."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from etc.tools.rivals import loads, routers
from etc.tools.rivals.columns import Figures
from etc.tools.rivals.failure import BenchError
from etc.tools.rivals.measure import Measurement, measure
from etc.tools.rivals.routers import Router, Start

Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Comparison:
    """Mutable while it runs."""

    routers: list[Router] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # router -> why it could not be measured
    rounds: dict[str, list[list[Measurement]]] = field(default_factory=dict)  # load -> rounds -> in the order asked

    def figures(self, load: str) -> Figures:
        found = [one for round_ in self.rounds.get(load, []) for one in round_]
        names = [router.name for router in self.routers]
        by_router = {name: [one for one in found if one.router == name] for name in names}
        return Figures(measurements={name: measured for name, measured in by_router.items() if measured})


class Contest:
    """Runs a comparison. A router that cannot be started, or breaks down, is left out from then on, and said to be."""

    def __init__(self, *, seconds: float, say: Say) -> None:
        self._seconds = seconds
        self._say = say
        self.comparison = Comparison()

    def run(self, starts: Mapping[str, Start], names: Sequence[str], rounds: int) -> None:
        """`names` are those of loads."""
        with ExitStack() as stack:
            url, upstream = stack.enter_context(routers.upstream())
            for name, start in starts.items():
                self._start(stack, name, start, url)
            for number in range(rounds):
                for name in names:
                    self._say(f"round {number + 1} of {rounds}: {loads.TITLES[name]} ...")
                    measured = self._round(name, number, upstream)
                    self.comparison.rounds.setdefault(name, []).append(measured)

    def _start(self, stack: ExitStack, name: str, start: Start, url: str) -> None:
        self._say(f"starting {name} ...")
        try:
            self.comparison.routers.append(stack.enter_context(start(url)))
        except (BenchError, AssertionError) as exc:  # an appliance asserts that it gets ready
            self._leave_out(name, exc)

    def _round(self, load: str, number: int, upstream: Sequence[int]) -> list[Measurement]:
        found = []
        for router in in_turn(self.comparison.routers, number):
            if router.name in self.comparison.left_out:
                continue
            try:
                found.append(measure(router, loads.LOADS[load](self._seconds), upstream))
            except BenchError as exc:
                self._leave_out(router.name, exc)
        return found

    def _leave_out(self, name: str, exc: BaseException) -> None:
        self.comparison.left_out[name] = str(exc)
        self._say(f"{name} is left out: {exc}")


def in_turn(items: Sequence[Router], number: int) -> list[Router]:
    """Each round begins with another one."""
    shift = number % len(items) if items else 0
    return [*items[shift:], *items[:shift]]

"""One start of an engine: its windows, one after the other."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from berth.bench.box import Gpus, Watch
from berth.bench.client import EngineClient
from berth.bench.generator import Generator
from berth.bench.plan_points import LARGEST, Profile, limit, next_concurrency
from berth.bench.schedule import arrivals
from berth.bench.window import Asked, window
from berth.bench.workload import Workload, asks
from berth.records.results import Point, Slo, Window

_SEARCHES = 1000  # seeds of these windows begin here
_PER_POINT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The same for all engines."""

    workload: Workload
    slo: Slo
    profile: Profile
    seed: int
    vocab_size: int | None
    reuse_prompts: bool = False  # every window has the same ones: for a look at what a warm cache does
    max_connections: int | None = None
    progress: Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Engine:
    """While it runs."""

    client: EngineClient
    conditions: Conditions
    gpus: Gpus
    pid: int | None = None
    warm: int = 0  # requests of warm-ups
    _fresh: bool = field(default=True)

    async def search(self) -> tuple[list[Window], int, str]:
        """Windows, the most requests at a time within the SLO, and why it is that many."""
        found: list[Window] = []
        most = min(self.client.replica.concurrency or LARGEST, LARGEST)
        slo = self.conditions.slo
        while (concurrency := next_concurrency(found, slo, most)) is not None:
            number = _SEARCHES + len(found)
            found.append(await self.window(Point(concurrency=concurrency), number, role="search"))
        return found, *limit(found, slo, most)

    async def windows(self, points: Iterable[Point]) -> list[Window]:
        """Each point several times, the points in turn: a box that grows warmer does so for all of them."""
        found: list[Window] = []
        places: Sequence[Point] = tuple(points)
        for repeat in range(self.conditions.profile.windows):
            for number, point in enumerate(places):
                found.append(await self.window(point, number * _PER_POINT + repeat))
        return found

    async def window(self, point: Point, number: int, role: str = "point") -> Window:
        """Windows with the same number have the same prompts and arrivals, whichever engine it is."""
        conditions = self.conditions
        seed = conditions.seed * 10_000 + (0 if conditions.reuse_prompts else number)
        size = conditions.profile.size(point, first=self._fresh, search=role == "search")
        self._fresh = False
        replica = self.client.replica.name
        conditions.progress(f"{replica}: {point}, {'searching' if role == 'search' else f'seed {seed}'}")
        generator = Generator(self.client, asks(conditions.workload, seed, conditions.vocab_size), size)
        times = arrivals(point.rate, seed, conditions.workload.burst) if point.rate else ()
        watch = Watch(self.gpus, self.pid)
        watching = asyncio.create_task(watch.run())
        try:
            run = await generator.run(point, times, connections=conditions.max_connections)
        finally:
            watching.cancel()
        self.warm += size.warm_requests
        asked = Asked(
            point=point,
            seed=seed,
            slo=conditions.slo,
            requests=size.requests,
            shares=bool(conditions.workload.shared),
            role=role,
        )
        return window(run, asked, watch.box())

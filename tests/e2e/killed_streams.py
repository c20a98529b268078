"""Concurrent streams of real engines, one of which is killed at a different word of each stream."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from berth.state import ReplicaStatus
from tests.chaos.observation import Api, Observation, Way, ask, make_client
from tests.e2e.appliance import Appliance, end
from tests.e2e.slow_processes import listeners, slow_down

APART = 7  # chunks from the beginning of one stream to that of the next
Ask = tuple[Api, dict[str, Any]]


@dataclass(slots=True, kw_only=True)
class ConcurrentStreams:
    """Streams of the model "m", each further than the next; when the last has begun, `act` is called."""

    url: str
    asks: tuple[Ask, ...]
    act: Callable[[], None] = lambda: None
    begun: list[asyncio.Event] = field(default_factory=list)

    def play(self) -> list[Observation]:
        return asyncio.run(self._play())

    async def _play(self) -> list[Observation]:
        self.begun = [asyncio.Event() for _ in self.asks]
        async with make_client(self.url) as client, asyncio.TaskGroup() as group:
            tasks = []
            for number, (api, fields) in enumerate(self.asks):
                tasks.append(group.create_task(self._ask(client, number, api, fields)))
                await self.begun[number].wait()
            self.act()
        return [task.result() for task in tasks]

    async def _ask(self, client: Any, number: int, api: Api, fields: dict[str, Any]) -> Observation:
        def heard(chunks: int) -> None:
            if chunks >= APART:
                self.begun[number].set()

        way = Way(api=api, stream=True)
        seen = await ask(client, "m", way, heard, stream_options={"include_usage": True}, **fields)
        self.begun[number].set()
        return seen


TRIES = 3


def play(berth: Appliance, asks: tuple[Ask, ...], *, least: int) -> tuple[list[Observation], list[Observation]]:
    """The answers without and with a kill; `least` of the streams that were under way went on. A kill that came when
    there were fewer is one more try.
    """
    for _ in range(TRIES):
        all_ready(berth)
        expected = ConcurrentStreams(url=berth.url, asks=asks).play()
        all_ready(berth)
        before, kill = metric(berth, "berth_streams_continued_total", "m"), killer(berth)
        with slow_down(processes(berth)):
            seen = ConcurrentStreams(url=berth.url, asks=asks, act=kill).play()
        if metric(berth, "berth_streams_continued_total", "m") >= before + least:
            return expected, seen
    raise AssertionError(f"in {TRIES} tries no {least} streams were under way when an engine was killed")


def all_ready(berth: Appliance) -> None:
    """Those that were killed a moment ago may still be called ready."""

    def ready() -> bool:
        states = berth.state().replicas
        return all(one.status is ReplicaStatus.READY and one.pid and lives(one.pid) for one in states)

    berth.wait(lambda: ready() and {one["status"] for one in berth.replicas().values()} == {"ready"}, 300)


def lives(pid: int) -> bool:
    """A zombie does not: it was killed, and nobody has looked yet."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def killer(berth: Appliance) -> Callable[[], None]:
    """Kills the engine that most of the streams come from. Who is who is looked up before: there is no time then."""
    leaders = {one.name: psutil.Process(one.pid) for one in berth.state().replicas if one.pid}

    def kill() -> None:
        end(leaders[max(leaders, key=lambda name: metric(berth, "berth_replica_requests_in_flight", name))])

    return kill


def processes(berth: Appliance) -> set[int]:
    """Those that make the tokens. Not the leaders alone: a forked server is no child of its own."""
    addresses = [one.socket_path or httpx.URL(one.url).port or 0 for one in berth.plan().replicas]
    leaders = [psutil.Process(one.pid) for one in berth.state().replicas if one.pid]
    children = {child.pid for leader in leaders for child in leader.children(recursive=True)}
    return children.union(*map(listeners, addresses))


def metric(berth: Appliance, name: str, label: str) -> float:
    lines = berth.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}{{") and f'="{label}"' in line]
    return float(line.rpartition(" ")[2])

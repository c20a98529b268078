"""Proves that the GPU memory of replicas that are about to start or wake is free, and says who holds it if it is not.

The GPUs are read only while a replica waits for that. After `release_timeout_s` without a proof the processes that dead
engines may have left are ended once more, and the replica is reported: its requests end with `memory_not_free`. It
keeps waiting, and starts as soon as the memory is free.

Where models share memory, the GPUs are also read every few seconds, so that nothing leaves without success: a model
that would not fit even then, because something else has taken memory, is reported in the same way after the same time,
and loaded when it fits.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from berth.control.cleanup import terminate
from berth.control.decisions import claims, eviction
from berth.control.decisions.memory import STEADY_READINGS, Proof, Result, judge, needed, shortage
from berth.control.decisions.records import LIVE, Observation, Ram, Record, Timing
from berth.host import gpus as nvml
from berth.host.cgroup import memory
from berth.host.gpu_usage import Gpus, Used
from berth.log import log
from berth.plan import Plan
from berth.state import GpuState

_ADVICE = "end what holds it; the replica starts as soon as the memory is free"


class MemoryWatch:
    """`on_reading` is called after each: it may be the proof."""

    def __init__(
        self, plan: Plan, gpus: Gpus, timing: Timing, records: Mapping[str, Record], on_reading: Callable[[], None]
    ) -> None:
        self._plan = plan
        self._gpus = gpus
        self._timing = timing
        self._records = records
        self._on_reading = on_reading
        self._readings: deque[tuple[GpuState, ...]] = deque(maxlen=STEADY_READINGS)
        self._wanted = asyncio.Event()
        self._needs: dict[str, Used] = {}
        self._proofs: dict[str, Proof] = {}
        self._since: dict[str, float] = {}  # when the first proof of these replicas failed
        self._overdue: set[str] = set()
        self._sweeping = False
        self._unreadable: set[str] = set()  # this was logged
        self._held: dict[str, str] = {}  # who holds the memory of a replica that waits for the proof
        self._shut_out: dict[str, str] = {}  # the same for models that would not fit even if others left
        self._shut_out_since: dict[str, float] = {}
        self._free_room: dict[int, int] = {}
        self._sleeps = any(one.sleep for one in plan.replicas)
        self._ram = Ram()

    @property
    def unproven(self) -> frozenset[str]:
        """The replicas that were judged last, and may not start."""
        if self._sweeping:
            return frozenset(self._needs)
        return frozenset(name for name, proof in self._proofs.items() if not proof.allows_start)

    @property
    def not_free(self) -> Mapping[str, str]:
        """Who holds the memory, by replica."""
        reports = {
            name: text
            for route in self._plan.models
            if (text := self._shut_out.get(route.name))
            for name in route.replicas
        }
        return {**reports, **self._held}

    @property
    def free_room(self) -> Used:
        """What the driver has for the models that share memory. Empty: it was not read."""
        return self._free_room

    @property
    def ram(self) -> Ram:
        """For the weights of engines that are to sleep. It is read where any can."""
        return self._ram

    async def look(
        self, observe: Callable[[], Observation], pinned: Callable[[], Collection[str]]
    ) -> tuple[GpuState, ...]:
        """Reads the GPUs, and finds out for which models no one is to leave."""
        moving = claims.moving(self._records.values())
        if self._sleeps:
            before = time.monotonic()
            available, limit = await asyncio.to_thread(memory)
            self._ram = Ram(available_bytes=available, limit_bytes=limit, read_at=before)
        states = await asyncio.to_thread(self._gpus.watch)
        if not self._plan.room:
            return states
        observation, used = observe(), {one.index: one.memory_used_bytes for one in states}
        settled = {gpu: bytes_ for gpu, bytes_ in used.items() if gpu not in moving}
        self._free_room |= claims.physical_room(observation, settled)
        observation = replace(observation, free_room=self._free_room)
        found = ((route, eviction.shut_out(route, observation, pinned())) for route in self._plan.models)
        missing = [(route, bytes_) for route, bytes_ in found if bytes_]
        now, limit_s = time.monotonic(), self._timing.release_timeout_s
        self._shut_out_since = {route.name: self._shut_out_since.get(route.name, now) for route, _ in missing}
        overdue = [(one, bytes_) for one, bytes_ in missing if now - self._shut_out_since[one.name] >= limit_s]
        strangers = await asyncio.to_thread(nvml.occupants) if overdue else {}
        reports = {}
        for route, bytes_ in overdue:
            others = [one for one in self._records.values() if one.replica.model != route.name]
            proof = Proof(result=Result.SHORT, missing=bytes_)
            reports[route.name] = _report(claims.whole(route, observation).physical, proof, others, strangers)
            if route.name not in self._shut_out:
                log.warning("GPU memory not free", model=route.name, reason=reports[route.name], next=_ADVICE)
        self._shut_out = reports
        return states

    def judge(self, starting: Iterable[Record], now: float) -> None:
        """`starting`: the replicas that would start or wake now if their memory is free."""
        needs = {one.replica.name: needed(one, self._plan.inventory.gpus) for one in starting}
        self._needs = {name: need for name, need in needs.items() if need}
        readings = tuple(self._readings)
        self._proofs = {name: judge(readings, need) for name, need in self._needs.items()}
        unproven = self.unproven
        self._since = {name: self._since.get(name, now) for name in unproven}
        self._overdue = {name for name, at in self._since.items() if now - at >= self._timing.release_timeout_s}
        self._held = {name: text for name, text in self._held.items() if name in unproven}
        unreadable = {name for name, proof in self._proofs.items() if proof.result is Result.UNREADABLE}
        for name in unreadable - self._unreadable:
            log.warning("GPU memory cannot be read, engine starts without a proof that it is free", replica=name)
        self._unreadable |= unreadable
        if self._needs:
            self._wanted.set()
        else:
            self._wanted.clear()
            self._readings.clear()

    async def run(self) -> None:
        """Until it is cancelled. What dead engines may have left is ended once before their GPU counts as held."""
        while True:
            await self._wanted.wait()
            self._readings.append(await asyncio.to_thread(self._gpus.read))
            if self._overdue - self._held.keys():
                dead = [name for name, one in self._records.items() if one.status not in LIVE and one.replica.gpus]
                self._sweeping = True  # nothing is started meanwhile: it would be ended too
                try:
                    await terminate(self._plan.paths, dead, self._timing.sweep_grace_s)
                finally:
                    self._sweeping = False
                self._readings.clear()
            for name in self._overdue & self._needs.keys():
                await self._explain(name)
            self._on_reading()
            await asyncio.sleep(self._timing.short_poll_s if self._held else self._timing.proof_poll_s)

    async def _explain(self, name: str) -> None:
        strangers = await asyncio.to_thread(nvml.occupants)
        proof = self._proofs.get(name)
        if proof is None or proof.allows_start:
            return
        others = [one for one in self._records.values() if one.replica.name != name]
        text = _report(self._needs[name], proof, others, strangers)
        if name not in self._held:
            log.warning("GPU memory not free", replica=name, reason=text, next=_ADVICE)
        self._held[name] = text


def _report(
    need: Used, proof: Proof, others: Iterable[Record], strangers: Mapping[int, Sequence[nvml.Occupant]]
) -> str:
    """For people: what is missing, and who is on the GPUs."""
    named = {index: [str(one) for one in found] for index, found in strangers.items()}
    on_it: dict[int, list[str]] = {}
    for one in others:
        if one.status in LIVE and not one.attached:
            for index in one.replica.gpus:
                on_it.setdefault(index, []).append(f"{one.replica.name} ({one.status})")
    return shortage(need, proof, on_it, named)

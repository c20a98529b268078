"""Proves that the GPU memory of replicas that are about to start or wake is free, and says who holds it if it is not.

The GPUs are read only while a replica waits for that. After `release_timeout_s` without a proof the processes that dead
engines may have left are ended once more, and the replica is reported: its requests end with `memory_not_free`. It
keeps waiting, and starts as soon as the memory is free.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping

from berth.control.cleanup import terminate
from berth.control.decisions.memory import STEADY_READINGS, Proof, Result, judge, needed, shortage
from berth.control.decisions.records import LIVE, Record, Timing
from berth.host import gpus as nvml
from berth.host.gpu_usage import Gpus, Used
from berth.log import log
from berth.plan import Plan
from berth.state import GpuState


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
        self.not_free: dict[str, str] = {}  # who holds the memory, by replica

    @property
    def unproven(self) -> frozenset[str]:
        """The replicas that were judged last, and may not start."""
        if self._sweeping:
            return frozenset(self._needs)
        return frozenset(name for name, proof in self._proofs.items() if not proof.allows_start)

    def judge(self, starting: Iterable[Record], now: float) -> None:
        """`starting`: the replicas that would start or wake now if their memory is free."""
        needs = {one.replica.name: needed(one, self._plan.inventory.gpus) for one in starting}
        self._needs = {name: need for name, need in needs.items() if need}
        readings = tuple(self._readings)
        self._proofs = {name: judge(readings, need) for name, need in self._needs.items()}
        unproven = self.unproven
        self._since = {name: self._since.get(name, now) for name in unproven}
        self._overdue = {name for name, at in self._since.items() if now - at >= self._timing.release_timeout_s}
        self.not_free = {name: text for name, text in self.not_free.items() if name in unproven}
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
        """Until it is cancelled."""
        while True:
            await self._wanted.wait()
            self._readings.append(await asyncio.to_thread(self._gpus.read))
            if self._overdue - self.not_free.keys():
                await self._sweep()
            for name in self._overdue & self._needs.keys():
                await self._explain(name)
            self._on_reading()
            await asyncio.sleep(self._timing.short_poll_s if self.not_free else self._timing.proof_poll_s)

    async def _sweep(self) -> None:
        """Ends what dead engines have left. Nothing is started meanwhile: it would be ended too."""
        names = [
            name
            for name, one in self._records.items()
            if one.status not in LIVE and one.replica.gpus and not one.attached
        ]
        self._sweeping = True
        try:
            await terminate(self._plan.paths, names, self._timing.sweep_grace_s)
        finally:
            self._sweeping = False
            self._readings.clear()

    async def _explain(self, name: str) -> None:
        strangers = await asyncio.to_thread(nvml.occupants)
        proof = self._proofs.get(name)
        if proof is None or proof.allows_start:
            return
        named = {index: [str(one) for one in found] for index, found in strangers.items()}
        text = shortage(self._needs[name], proof, residents(self._records.values(), name), named)
        if name not in self.not_free:
            advice = "end what holds it; the replica starts as soon as the memory is free"
            log.warning("GPU memory not free", replica=name, reason=text, next=advice)
        self.not_free[name] = text


def residents(records: Collection[Record], name: str) -> dict[int, list[str]]:
    """The engines of Berth on each GPU, besides this one."""
    found: dict[int, list[str]] = {}
    for one in records:
        if one.status in LIVE and not one.attached and one.replica.name != name:
            for index in one.replica.gpus:
                found.setdefault(index, []).append(f"{one.replica.name} ({one.status})")
    return found

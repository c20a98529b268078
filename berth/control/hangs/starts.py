"""Starts that make no progress. A start is slow for many reasons, and only one that does nothing at all hangs: no
progress in its log, next to no CPU time, nothing read, and the same GPU memory.

Engines that start at the same time wait for each other's locks, of a download or a build: what one does counts for all.
One that is busy without an end (a collective that spins) ends by BERTH_START_TIMEOUT.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from berth.control.runtime import Runtime
from berth.host.process_activity import Activity, activity
from berth.processes import leftovers
from berth.state import ReplicaStatus

BUSY_SHARE: Final = 0.02  # of one CPU core: threads that only wait take less
READ_BYTES: Final = 1 << 20  # a second
GPU_BYTES: Final = 16 << 20  # between two looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """At the processes of all starts."""

    at: float  # time.monotonic()
    done: Mapping[str, Activity | None] = field(default_factory=dict)  # by replica; None: its processes cannot be seen
    gpus: Mapping[int, int] = field(default_factory=dict)  # bytes in use


def works(before: Look, now: Look) -> bool:
    """Whether any of the starts does something. One that cannot be seen, or has just begun, counts as busy."""
    seconds = now.at - before.at
    if any(abs(used - before.gpus.get(index, 0)) >= GPU_BYTES for index, used in now.gpus.items()):
        return True
    for name, after in now.done.items():
        earlier = before.done.get(name)
        if after is None or earlier is None:
            return True
        busy_s, read_bytes = after.cpu_s - earlier.cpu_s, after.read_bytes - earlier.read_bytes
        if abs(busy_s) >= BUSY_SHARE * seconds or abs(read_bytes) >= READ_BYTES * seconds:
            return True
        if after.faults != earlier.faults:
            return True
    return False


async def watch_starts(runtime: Runtime, is_stopping: Callable[[], bool]) -> None:
    """Until control stops."""
    before = Look(at=time.monotonic())
    while not is_stopping():
        await asyncio.sleep(runtime.timing.start_look_s)
        names = [
            name
            for name, record in runtime.records.items()
            if record.status is ReplicaStatus.STARTING and not record.attached
        ]
        now = await asyncio.to_thread(look, runtime, names)
        if works(before, now):
            for name in names:
                runtime.records[name] = replace(runtime.records[name], active_at=now.at)
        before = now


def look(runtime: Runtime, names: list[str]) -> Look:
    done = {name: activity(leftovers(runtime.plan.paths, name)) for name in names}
    used = runtime.gpus.used({gpu for name in names for gpu in runtime.records[name].replica.gpus}) if names else {}
    return Look(at=time.monotonic(), done=done, gpus=used)

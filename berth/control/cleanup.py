"""Cleanup after an engine's exit: its leftover processes, and the release of its GPU memory."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from berth.control.decisions.records import Timing
from berth.host.gpu_usage import Gpus, Used
from berth.log import log
from berth.plan import Replica, RunPaths
from berth.processes import leftovers, sweep

STEADY_READINGS = 3
TOLERANCE_BYTES = 64 * 2**20  # between readings that count as equal
EXCESS_BYTES = 512 * 2**20  # above the usage before the start: contexts of other processes grow a little


def released(readings: Sequence[Used], before: Used | None) -> bool:
    """Several equal readings, close to the usage before the start if that is known. Without readings of any GPU there
    is nothing to wait for.
    """
    last = readings[-STEADY_READINGS:]
    if not last or not last[-1]:
        return bool(last)
    if len(last) < STEADY_READINGS:
        return False
    for index, used in last[-1].items():
        values = [reading.get(index, 0) for reading in last]
        steady = max(values) - min(values) <= TOLERANCE_BYTES
        if not steady or used > (before or {}).get(index, used) + EXCESS_BYTES:
            return False
    return True


async def wait_released(read: Callable[[], Used], before: Used | None, *, timeout_s: float, poll_s: float) -> bool:
    """False after the timeout. The caller then continues all the same."""
    readings: list[Used] = [await asyncio.to_thread(read)]
    deadline = time.monotonic() + timeout_s
    while not released(readings, before):
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(poll_s)
        readings.append(await asyncio.to_thread(read))
    return True


async def clean_up(paths: RunPaths, replica: Replica, gpus: Gpus, before: Used | None, timing: Timing) -> None:
    """Terminates the leftover processes of a replica, and waits for its GPU memory. `before` is the usage before its
    start, if known.
    """
    await terminate(paths, [replica.name], timing.sweep_grace_s)
    is_released = await wait_released(
        lambda: gpus.used(replica.gpus), before, timeout_s=timing.release_timeout_s, poll_s=timing.release_poll_s
    )
    if not is_released:
        log.warning("GPU memory not released within timeout, starting anyway", replica=replica.name)


async def terminate(paths: RunPaths, replicas: Iterable[str], grace_s: float) -> None:
    """All processes of these replicas: SIGTERM, and SIGKILL after the grace period."""
    names = tuple(replicas)

    def find() -> list[int]:
        return sorted({pid for name in names for pid in leftovers(paths, name)})

    survivors = await asyncio.to_thread(sweep, find, grace_s)
    if survivors:
        pids = " ".join(str(pid) for pid in survivors)
        log.error("processes survived SIGKILL", replicas=" ".join(names), pids=pids)

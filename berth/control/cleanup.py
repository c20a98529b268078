"""What dead engines leave behind: processes, and GPU memory that comes back late."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from berth.control.records import Timing
from berth.host.gpu_usage import Gpus, Used
from berth.log import log
from berth.plan import Replica, RunPaths
from berth.processes import leftovers, sweep

STEADY_READINGS = 3
TOLERANCE_BYTES = 64 * 2**20  # between readings that count as the same
LEFT_OVER_BYTES = 512 * 2**20  # above what was used before the start: contexts of neighbours grow a little


def released(readings: Sequence[Used], before: Used | None) -> bool:
    """The memory is back: several readings alike, and not far above what was used before the start, if that is known.
    GPUs that tell nothing are not waited for.
    """
    last = readings[-STEADY_READINGS:]
    if not last or not last[-1]:
        return bool(last)
    return len(last) == STEADY_READINGS and all(_steady(index, last, before or {}) for index in last[-1])


def _steady(index: int, last: Sequence[Used], before: Used) -> bool:
    values = [reading.get(index, 0) for reading in last]
    ceiling = before.get(index, values[-1]) + LEFT_OVER_BYTES
    return max(values) - min(values) <= TOLERANCE_BYTES and values[-1] <= ceiling


async def wait_released(read: Callable[[], Used], before: Used | None, *, timeout_s: float, poll_s: float) -> bool:
    """False when the time is up: then a start is tried all the same."""
    readings: list[Used] = [await asyncio.to_thread(read)]
    deadline = time.monotonic() + timeout_s
    while not released(readings, before):
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(poll_s)
        readings.append(await asyncio.to_thread(read))
    return True


async def clear_up(paths: RunPaths, replica: Replica, gpus: Gpus, before: Used | None, timing: Timing) -> None:
    """Ends the processes that are left of a replica, and waits for its GPU memory. `before`: what was used before it
    was started, if that is known.
    """
    await end_all(paths, [replica.name], timing.sweep_grace_s)
    back = await wait_released(
        lambda: gpus.used(replica.gpus), before, timeout_s=timing.release_timeout_s, poll_s=timing.release_poll_s
    )
    if not back:
        log.warning("GPU memory does not come back; going on", replica=replica.name)


async def end_all(paths: RunPaths, replicas: Iterable[str], grace_s: float) -> None:
    """Ends all processes of these replicas: SIGTERM, and after the grace SIGKILL."""
    names = tuple(replicas)

    def find() -> list[int]:
        return sorted({pid for name in names for pid in leftovers(paths, name)})

    survivors = await asyncio.to_thread(sweep, find, grace_s)
    if survivors:
        pids = " ".join(str(pid) for pid in survivors)
        log.error("processes do not end, not even by SIGKILL", replicas=" ".join(names), pids=pids)

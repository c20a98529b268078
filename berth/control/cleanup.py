"""Cleanup after an engine's exit: its leftover processes, and the release of its GPU memory."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from berth.control.decisions.memory import EXCESS_BYTES, STEADY_READINGS, steady
from berth.control.decisions.records import Timing
from berth.host.gpu_usage import Gpus, Used
from berth.log import log
from berth.plan import Replica, RunPaths
from berth.processes import leftovers, sweep

_WHEN_FREE = "nothing that needs it is started before it is free"


def released(readings: Sequence[Used], expected: Used | None) -> bool:
    """Several equal readings, close to the expected usage if that is known. Without readings of any GPU there is
    nothing to wait for.
    """
    if not readings or not readings[-1]:
        return bool(readings)
    last = readings[-1]
    above = any(used > (expected or {}).get(index, used) + EXCESS_BYTES for index, used in last.items())
    return not above and len(readings) >= STEADY_READINGS and steady(readings, last)


async def wait_released(read: Callable[[], Used], expected: Used | None, *, timeout_s: float, poll_s: float) -> bool:
    """False after the timeout. The caller then continues all the same."""
    readings: list[Used] = [await asyncio.to_thread(read)]
    deadline = time.monotonic() + timeout_s
    while not released(readings, expected):
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(poll_s)
        readings.append(await asyncio.to_thread(read))
    return True


async def clean_up(paths: RunPaths, replica: Replica, gpus: Gpus, expected: Used | None, timing: Timing) -> None:
    """Terminates the leftover processes of a replica, and waits for its GPU memory. `expected` is the usage without it,
    if known.
    """
    await terminate(paths, [replica.name], timing.sweep_grace_s)
    is_released = await wait_released(
        lambda: gpus.used(replica.gpus), expected, timeout_s=timing.release_timeout_s, poll_s=timing.release_poll_s
    )
    if not is_released:
        log.warning("GPU memory not released within timeout", replica=replica.name, next=_WHEN_FREE)


async def terminate(paths: RunPaths, replicas: Iterable[str], grace_s: float) -> None:
    """All processes of these replicas: SIGTERM, and SIGKILL after the grace period."""
    names = tuple(replicas)

    def find() -> list[int]:
        return sorted({pid for name in names for pid in leftovers(paths, name)})

    survivors = await asyncio.to_thread(sweep, find, grace_s)
    if survivors:
        pids = " ".join(str(pid) for pid in survivors)
        log.error("processes survived SIGKILL", replicas=" ".join(names), pids=pids)

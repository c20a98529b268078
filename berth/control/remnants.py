"""What dead engines leave behind: processes, and GPU memory that comes back late."""

import asyncio
from collections.abc import Iterable

from berth.control.gpu import Gpus, Used, wait_released
from berth.control.records import Timing
from berth.log import log
from berth.plan import Replica, RunPaths
from berth.processes import remains, sweep


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
        return sorted({pid for name in names for pid in remains(paths, name)})

    survivors = await asyncio.to_thread(sweep, find, grace_s)
    if survivors:
        pids = " ".join(str(pid) for pid in survivors)
        log.error("processes do not end, not even by SIGKILL", replicas=" ".join(names), pids=pids)

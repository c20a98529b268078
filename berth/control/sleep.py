"""Tells engines to sleep and to wake, and asks whether they sleep. Nothing here raises: an answer is "" or what was
wrong, in words.
"""

import asyncio
from collections.abc import Callable

from berth.control.cleanup import wait_released
from berth.control.probes import Prober
from berth.control.records import Timing
from berth.host.gpu_usage import Used
from berth.plan import Replica, Sleep

LEAST_SHARE_BACK = 0.5  # of the weights' bytes: an engine that gives back less has not slept


class Slumber:
    """`used` reads the memory in use of the replica's GPUs; empty where nobody can tell."""

    def __init__(self, prober: Prober, used: Callable[[Replica], Used], timing: Timing) -> None:
        self._prober = prober
        self._used = used
        self._timing = timing

    async def put_to_sleep(self, replica: Replica, sleep: Sleep) -> str:
        """Returns when its GPU memory is back."""
        before = await asyncio.to_thread(self._used, replica)
        error = await self._prober.tell(replica, sleep.sleep_path, sleep.body, sleep.sleep_timeout_s)
        if error:
            return error
        if sleep.state_path and not await self._prober.sleeps(replica, sleep.state_path):
            return f"{sleep.sleep_path} was answered, and {sleep.state_path} says that it does not sleep"
        return await self._given_back(replica, before)

    async def wake(self, replica: Replica, sleep: Sleep) -> str:
        """Returns when it can be asked."""
        error = await self._prober.tell(replica, sleep.wake_path, sleep.body, sleep.wake_timeout_s)
        if error:
            return error
        if sleep.state_path and await self._prober.sleeps(replica, sleep.state_path) is not False:
            return f"{sleep.wake_path} was answered, and {sleep.state_path} does not say that it is awake"
        return await self._prober.ask(replica, replica.ready)

    async def _given_back(self, replica: Replica, before: Used) -> str:
        """The memory has come to rest, and is what the weights took at the least."""
        if not before:
            return ""
        timing = self._timing
        await wait_released(
            lambda: self._used(replica), None, timeout_s=timing.release_timeout_s, poll_s=timing.release_poll_s
        )
        after = await asyncio.to_thread(self._used, replica)
        weights = replica.memory.weights_bytes if replica.memory else 0
        kept = [index for index, used in after.items() if before.get(index, 0) - used < LEAST_SHARE_BACK * weights]
        return f"it says that it sleeps, and keeps the memory of GPU {', '.join(map(str, kept))}" if kept else ""

"""The sleep mode of engines: calls to sleep and to wake up, verified. Never raises: a result is "" or the error."""

import asyncio
from collections.abc import Callable

from berth.control.cleanup import wait_released
from berth.control.decisions.records import Timing
from berth.control.hangs.canary import Canary
from berth.control.probes import Prober
from berth.host.gpu_usage import Used
from berth.plan import Replica, Sleep

MIN_RELEASED_SHARE = 0.5  # of the weights' bytes: an engine that releases less is not asleep


class SleepMode:
    """`used` reads the used memory of a replica's GPUs. It is empty without NVML."""

    def __init__(self, prober: Prober, canary: Canary, used: Callable[[Replica], Used], timing: Timing) -> None:
        self._prober = prober
        self._canary = canary
        self._used = used
        self._timing = timing

    async def put_to_sleep(self, replica: Replica, sleep: Sleep) -> str:
        """Returns when the GPU memory is released: the usage is steady, and lower by at least half of the weights."""
        before = await asyncio.to_thread(self._used, replica)
        error = await self._prober.post(replica, sleep.sleep_path, sleep.body, sleep.sleep_timeout_s)
        if error:
            return error
        if sleep.state_path and not await self._prober.is_sleeping(replica, sleep.state_path):
            return f"{sleep.sleep_path} succeeded, but {sleep.state_path} does not report that it sleeps"
        if not before:
            return ""
        timing = self._timing
        await wait_released(
            lambda: self._used(replica), None, timeout_s=timing.release_timeout_s, poll_s=timing.release_poll_s
        )
        after = await asyncio.to_thread(self._used, replica)
        least = MIN_RELEASED_SHARE * (replica.memory.weights_bytes if replica.memory else 0)
        kept = ", ".join(str(index) for index, used in after.items() if before.get(index, 0) - used < least)
        return f"{sleep.sleep_path} succeeded, but the memory of GPU {kept} is not released" if kept else ""

    async def wake(self, replica: Replica, sleep: Sleep) -> str:
        """Returns when the replica can serve requests: it has answered one, with the weights that it should have."""
        error = await self._prober.post(replica, sleep.wake_path, sleep.body, sleep.wake_timeout_s)
        if error:
            return error
        if sleep.state_path and await self._prober.is_sleeping(replica, sleep.state_path) is not False:
            return f"{sleep.wake_path} succeeded, but {sleep.state_path} does not report that it is awake"
        if error := await self._prober.probe(replica, replica.ready):
            return error
        error = (await self._canary.ask(replica)).error
        return error and f"its first answer failed: {error}"

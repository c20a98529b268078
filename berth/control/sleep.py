"""The sleep mode of engines: calls to sleep and to wake up, verified. Never raises: a result is "" or the error.

An engine keeps its weights in RAM while it sleeps, if they fit into what this container has left. Otherwise vLLM can
sleep without them, and reads them again when it wakes. How an engine sleeps is known to the control that put it to
sleep; a later one lets it read its weights in any case, which is right for both.
"""

import asyncio
from collections.abc import Callable

from berth.control.cleanup import wait_released
from berth.control.decisions.claims import RAM_MARGIN
from berth.control.decisions.records import Timing
from berth.control.hangs.canary import Canary
from berth.control.probes import Prober
from berth.host.cgroup import available_memory
from berth.host.gpu_usage import Used
from berth.plan import Replica, Sleep, SleepCall
from berth.records.starts import How
from berth.units import size

MIN_RELEASED_SHARE = 0.5  # of the weights' bytes: an engine that releases less is not asleep


class SleepMode:
    """`used` reads the used memory of a replica's GPUs. It is empty without NVML. `ram`: bytes that are available."""

    def __init__(
        self,
        prober: Prober,
        canary: Canary,
        used: Callable[[Replica], Used],
        timing: Timing,
        ram: Callable[[], int] = available_memory,
    ) -> None:
        self._prober = prober
        self._canary = canary
        self._used = used
        self._timing = timing
        self._ram = ram
        self._with_weights: set[str] = set()  # the replicas that this control has put to sleep so

    async def put_to_sleep(self, replica: Replica, sleep: Sleep) -> str:
        """Returns when the GPU memory is released: the usage is steady, and lower by at least half of the weights."""
        weights_bytes = replica.memory.weights_bytes if replica.memory else 0
        needed, left = int(weights_bytes * len(replica.gpus) * RAM_MARGIN), await asyncio.to_thread(self._ram)
        with_weights = needed <= left
        if not with_weights and not sleep.light:
            return f"its weights would take {size(needed)} of RAM, and {size(left)} are available"
        calls = (SleepCall(path=sleep.sleep_path, body={**sleep.body}),) if with_weights else sleep.light
        before = await asyncio.to_thread(self._used, replica)
        if error := await self._call(replica, sleep.pause, *calls, timeout_s=sleep.sleep_timeout_s):
            return error
        if with_weights:
            self._with_weights.add(replica.name)
        path = calls[-1].path
        if sleep.state_path and not await self._prober.is_sleeping(replica, sleep.state_path):
            return f"{path} succeeded, but {sleep.state_path} does not report that it sleeps"
        if not before:
            return ""
        timing = self._timing
        await wait_released(
            lambda: self._used(replica), None, timeout_s=timing.release_timeout_s, poll_s=timing.release_poll_s
        )
        after = await asyncio.to_thread(self._used, replica)
        least = MIN_RELEASED_SHARE * weights_bytes
        kept = ", ".join(str(index) for index, used in after.items() if before.get(index, 0) - used < least)
        return f"{path} succeeded, but the memory of GPU {kept} is not released" if kept else ""

    def wakes(self, replica: Replica, sleep: Sleep) -> How:
        """How it wakes, if it is asleep."""
        return How.WAKE_1 if not sleep.reload or replica.name in self._with_weights else How.WAKE_2

    async def wake(self, replica: Replica, sleep: Sleep) -> str:
        """Returns when the replica can serve requests: it has answered one, with the weights that it should have."""
        calls, limit_s = sleep.reload, replica.start_timeout_s
        if self.wakes(replica, sleep) is How.WAKE_1:
            calls, limit_s = (SleepCall(path=sleep.wake_path, body={**sleep.body}),), sleep.wake_timeout_s
        self._with_weights.discard(replica.name)
        if error := await self._call(replica, *calls, sleep.resume, timeout_s=limit_s):
            return error
        if sleep.state_path and await self._prober.is_sleeping(replica, sleep.state_path) is not False:
            return f"{calls[-1].path} succeeded, but {sleep.state_path} does not report that it is awake"
        if error := await self._prober.probe(replica, replica.ready):
            return error
        error = (await self._canary.ask(replica)).error
        return error and f"its first answer failed: {error}"

    async def _call(self, replica: Replica, *calls: SleepCall | None, timeout_s: float) -> str:
        """One after another, up to the first error."""
        for call in calls:
            if call is not None and (error := await self._prober.post(replica, call.path, call.body, timeout_s)):
                return error
        return ""

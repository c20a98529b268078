"""The sleep mode of engines: calls to sleep and to wake up, verified. Never raises: a result is "" or the error.

How an engine sleeps, with its weights in RAM or without them, is decided before: `berth.control.decisions.sleepers`.
An engine that sleeps already keeps the way in which it fell asleep: vLLM ignores a second call. Where that way is not
known, it reads its weights again when it wakes, if it can, which is right for both.
"""

import asyncio
from collections.abc import Callable

from berth.control.cleanup import wait_released
from berth.control.decisions.records import Timing
from berth.control.hangs.canary import Canary
from berth.control.probes import Prober
from berth.host.gpu_usage import Used
from berth.plan import Replica, Sleep, SleepCall
from berth.records.starts import How

MIN_RELEASED_SHARE = 0.5  # of the weights' bytes: an engine that releases less is not asleep


class SleepMode:
    """`used` reads the used memory of a replica's GPUs. It is empty without NVML."""

    def __init__(self, prober: Prober, canary: Canary, used: Callable[[Replica], Used], timing: Timing) -> None:
        self._prober = prober
        self._canary = canary
        self._used = used
        self._timing = timing

    async def put_to_sleep(self, replica: Replica, sleep: Sleep, how: How) -> str:
        """Returns when the GPU memory is released: the usage is steady, and lower by at least half of the weights."""
        weights_bytes = replica.memory.weights_bytes if replica.memory else 0
        whole = (SleepCall(path=sleep.sleep_path, body={**sleep.body}),)
        calls = sleep.light if how is How.WAKE_2 and sleep.light else whole
        before = await asyncio.to_thread(self._used, replica)
        if error := await self._call(replica, sleep.pause, *calls, timeout_s=sleep.sleep_timeout_s):
            return error
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

    async def wake(self, replica: Replica, sleep: Sleep, how: How | None) -> str:
        """Returns when the replica can serve requests: it has answered one, with the weights that it should have."""
        calls, limit_s = sleep.reload, replica.start_timeout_s
        if not calls or how is How.WAKE_1:
            calls, limit_s = (SleepCall(path=sleep.wake_path, body={**sleep.body}),), sleep.wake_timeout_s
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

"""Acting: executes transitions with supervisord, and starts the longer work that a status calls for."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from berth.control.cleanup import clean_up, terminate
from berth.control.decisions import lifecycle
from berth.control.decisions.records import LIVE, Record, Transition
from berth.control.decisions.requests import operation_of
from berth.control.diagnosis import Failure
from berth.control.events import log_transition
from berth.control.measuring import keep_measurement
from berth.control.observe import Observer
from berth.control.runtime import Runtime
from berth.control.sleep import SleepMode
from berth.control.supervisord_client import ProcessState, Snapshot
from berth.errors import ControlError
from berth.host.gpu_usage import Used
from berth.log import log
from berth.plan import Sleep
from berth.records.starts import How
from berth.state import BERTH_STOPS, ReplicaStatus

_S = ReplicaStatus


class Executor:
    """Cleanups and calls to sleep or wake up run as tasks, at most one per replica. Each wakes the loop at its end."""

    def __init__(self, runtime: Runtime, observer: Observer, sleep_mode: SleepMode, tasks: asyncio.TaskGroup) -> None:
        self._runtime = runtime
        self._observer = observer
        self._sleep_mode = sleep_mode
        self._tasks = tasks
        self._cleanups: dict[str, asyncio.Task[None]] = {}
        self._sleep_calls: dict[str, asyncio.Task[None]] = {}

    @property
    def is_cleaning_up(self) -> bool:
        return bool(self._cleanups)

    def cancel(self) -> None:
        for task in (*self._cleanups.values(), *self._sleep_calls.values()):
            task.cancel()

    async def execute(self, transition: Transition, now: float, *, shutting_down: bool) -> None:
        name, records = transition.name, self._runtime.records
        before = records[name]
        records[name] = record = lifecycle.apply(before, transition, now)
        getting_ready = record if record.status is _S.STARTING else before
        log_transition(before, record, now, self._runtime.times.expected_s(getting_ready))
        operations = self._runtime.operations
        operations.learned(before, record, now)
        if self._runtime.times.learned(before, record, now):
            self._tasks.create_task(asyncio.to_thread(self._runtime.times.save))
        self._runtime.events.transition(before, record, operation_of(record, operations.running))
        if transition.to is _S.STARTING and not record.attached:
            await self._start(record)
        elif transition.to in (_S.READY, _S.FALLING_ASLEEP) and before.status is _S.STARTING:
            if transition.to is _S.READY:
                self._tasks.create_task(asyncio.to_thread(keep_measurement, record, self._runtime.plan))
            if record.replica.gpus:
                taken = self._runtime.ledger.loaded(name, await self._used(record))
                records[name] = replace(records[name], gpu=replace(records[name].gpu, taken=taken))
        elif transition.to is _S.STOPPING and not shutting_down:
            await self._stop(name)

    async def follow_up(self, snapshot: Snapshot) -> None:
        """There are three cases: 1. a stop that supervisord missed, because it or control was away, is repeated 2. an
        exited replica is cleaned up 3. the call to sleep or to wake up is made.
        """
        for name, record in self._runtime.records.items():
            process, sleep = snapshot.processes.get(name), record.replica.sleep
            if record.status is _S.STOPPING:
                if process is not None and process.state is ProcessState.RUNNING:
                    await self._stop(name)
            elif record.status not in LIVE:
                if not record.cleaned_up and name not in self._cleanups:
                    self._cleanups[name] = self._tasks.create_task(self._clean_up(name))
            elif sleep and record.awaits_sleep_call and name not in self._sleep_calls:
                self._sleep_calls[name] = self._tasks.create_task(self._call_sleep_mode(record, sleep))

    async def _start(self, record: Record) -> None:
        name, runtime = record.replica.name, self._runtime
        if record.replica.gpus:
            self._runtime.ledger.started(name, await self._used(record))
        runtime.followers[name].restart()
        try:
            if record.replica.attendant is not None:
                await runtime.supervisord.start(record.replica.attendant_name)
            await runtime.supervisord.start(name)
        except ControlError as error:
            snapshot = await self._observer.poll()
            if snapshot is None or not snapshot.shutting_down:
                now = time.monotonic()
                observation = self._observer.observation(snapshot or Snapshot(), {})
                record = runtime.records[name]  # probes may have changed it meanwhile
                transition = lifecycle.failed(record, Failure(reason=str(error)), observation, now)
                await self.execute(transition, now, shutting_down=False)

    async def _stop(self, name: str) -> None:
        try:
            await self._runtime.supervisord.stop(name)
        except ControlError as error:  # `follow_up` tries again
            log.error("cannot stop replica", replica=name, error=str(error))

    async def _used(self, record: Record) -> Used:
        return await asyncio.to_thread(self._runtime.gpus.used, record.replica.gpus)

    async def _clean_up(self, name: str) -> None:
        runtime, gpus = self._runtime, set(self._runtime.records[name].replica.gpus)
        self._runtime.ledger.gone(name)
        neighbours = (
            other
            for other, one in runtime.records.items()
            if other != name and one.status in LIVE and not one.attached and not gpus.isdisjoint(one.replica.gpus)
        )
        expected = self._runtime.ledger.expected(name, neighbours)
        await clean_up(runtime.plan.paths, runtime.records[name].replica, runtime.gpus, expected, runtime.timing)
        runtime.records[name] = replace(runtime.records[name], cleaned_up=True)
        self._cleanups.pop(name, None)
        runtime.changed.set()

    async def _call_sleep_mode(self, record: Record, sleep: Sleep) -> None:
        name, records = record.replica.name, self._runtime.records
        before, falls_asleep = await self._used(record), record.status is _S.FALLING_ASLEEP
        if falls_asleep:
            result = await self._sleep_mode.put_to_sleep(record.replica, sleep, record.wakes or How.WAKE_1)
        else:
            result = await self._sleep_mode.wake(record.replica, sleep, record.wakes)
        after, released, residue = await self._used(record), record.released, record.gpu.residue
        if falls_asleep and not result:
            released = {index: before[index] - used for index, used in after.items() if index in before}
            residue = {gpu: max(taken - released[gpu], 0) for gpu, taken in record.gpu.taken.items() if gpu in released}
        if not result:
            self._runtime.ledger.changed(name, {index: before.get(index, used) - used for index, used in after.items()})
        latest = records[name]
        if (latest.status, latest.since) == (record.status, record.since):
            gpu = replace(latest.gpu, residue=residue, first_residue=latest.gpu.first_residue or residue)
            records[name] = replace(latest, sleep_result=result, released=released, gpu=gpu)
        self._sleep_calls.pop(name, None)
        self._runtime.changed.set()


async def end_engines(runtime: Runtime, grace_s: float, publish: Callable[[], None]) -> None:
    """Without supervisord. Routers send no more requests to the engines once they are published as stopping."""

    def set_all(to: ReplicaStatus) -> None:
        now = time.monotonic()
        for name, record in runtime.records.items():
            if name in runtime.followers and to in lifecycle.TRANSITIONS[record.status]:
                transition = Transition(name=name, to=to, reason=BERTH_STOPS)
                runtime.records[name] = lifecycle.apply(record, transition, now)
        publish()

    set_all(_S.STOPPING)
    await terminate(runtime.plan.paths, runtime.followers, grace_s)
    set_all(_S.STOPPED)

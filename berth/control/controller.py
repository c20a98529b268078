"""The loop of control: observe supervisord, probes and logs; decide; act; publish.

Only `_tick` changes the status of a replica. Probes and logs note what they saw in between; each note belongs to one
start of a replica and is dropped when that is over.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from berth.control import lifecycle, load_progress
from berth.control.cleanup import clear_up, end_all
from berth.control.diagnosis import Deaths, Failure
from berth.control.engine_logs import Follower, Output
from berth.control.events import announce, try_it
from berth.control.lifecycle import BERTH_STOPS, TRANSITIONS
from berth.control.probes import Prober, after_probe
from berth.control.publish import ControlState, Publisher, note, read_notes, read_state
from berth.control.records import LIVE, Observation, Record, Timing, Transition
from berth.control.recovery import restore
from berth.control.sleep import Slumber
from berth.control.supervisord_client import ProcessState, Snapshot, Supervisor
from berth.errors import ControlError
from berth.host.gpu_usage import Gpus
from berth.log import log
from berth.plan import Keys, Plan, Probe, Sleep
from berth.state import GpuState, ReplicaStatus

_S = ReplicaStatus


class Controller:
    """Keeps the replicas of one plan running until `stop` is called, or supervisord is gone."""

    def __init__(
        self,
        plan: Plan,
        keys: Keys,
        *,
        orphaned: Callable[[], bool],
        timing: Timing | None = None,
        output: Output | None = None,
        gpus: Gpus | None = None,
    ) -> None:
        self._plan = plan
        self._keys = keys
        self._orphaned = orphaned
        self._timing = timing or Timing()
        self._gpus = gpus or Gpus(gpu.index for gpu in plan.inventory.gpus)
        self.supervisor = Supervisor(plan.paths.supervisord_socket)
        self._deaths = Deaths(self.supervisor)
        self._publisher = Publisher(plan.paths)
        output = output or Output(plan.logs.format)
        self._followers = {
            replica.name: Follower(
                plan.paths.replica_log(replica.name), replica.name, output, self._listener(replica.name)
            )
            for replica in plan.replicas
            if replica.launch is not None
        }
        self._records: dict[str, Record] = {}
        self._clearing: dict[str, asyncio.Task[None]] = {}
        self._telling: dict[str, asyncio.Task[None]] = {}  # to sleep, or to wake
        self._used_before: dict[str, dict[int, int]] = {}
        self._gpu_states: tuple[GpuState, ...] = ()
        self._notes = ControlState(supervisord="")
        self._reachable = True
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends `run` soon. Engines run on: who stops them is decided there."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        try:
            await self._run()
            await self._leave()
        finally:
            self.supervisor.close()
            for follower in self._followers.values():
                follower.close()

    async def _run(self) -> None:
        async with Prober(self._keys.upstream_keys) as prober, asyncio.TaskGroup() as tasks:
            slumber = Slumber(prober, lambda replica: self._gpus.used(replica.gpus), self._timing)
            if await self._take_over(prober):
                watches = [self._watch(prober, name) for name in self._records]
                follows = [follower.follow(self._timing.log_poll_s) for follower in self._followers.values()]
                running = [tasks.create_task(endless) for endless in (*watches, *follows, self._beat())]
                await self._loop(tasks, slumber)
                for task in (*running, *self._clearing.values(), *self._telling.values()):
                    task.cancel()

    async def _take_over(self, prober: Prober) -> bool:
        """The first look at supervisord. False when control is to stop before there is an answer."""
        while not self._done():
            snapshot = await self._look()
            if snapshot is not None and not snapshot.shutting_down:
                self._restore(snapshot, await self._asleep(prober, snapshot))
                return True
            await self._pause(self._timing.busy_poll_s)
        return False

    async def _asleep(self, prober: Prober, snapshot: Snapshot) -> dict[str, bool]:
        """Of those that run and tell it, whether they sleep."""
        found: dict[str, bool] = {}
        for replica in self._plan.replicas:
            process = snapshot.processes.get(replica.name)
            if replica.sleep and replica.sleep.state_path and process is not None and process.alive:
                said = await prober.sleeps(replica, replica.sleep.state_path)
                found |= {} if said is None else {replica.name: said}
        return found

    def _restore(self, snapshot: Snapshot, asleep: dict[str, bool]) -> None:
        now, supervisord = time.monotonic(), snapshot.supervisord
        notes, state = read_notes(self._plan.paths), read_state(self._plan.paths)
        if notes is None or notes.supervisord != supervisord:  # but its logs go on from where they were
            notes, state = (
                ControlState(supervisord=supervisord, log_positions=notes.log_positions if notes else {}),
                None,
            )
        records = restore(
            lifecycle.first_records(self._plan, now),
            state,
            notes,
            snapshot.processes,
            asleep,
            routes=self._plan.models,
            now=now,
            offset_s=self._publisher.offset_s,
        )
        self._notes = notes
        self._deaths.look(now, notes.kills)
        self._records = {record.replica.name: record for record in records}
        for name, follower in self._followers.items():
            follower.resume(notes.log_positions.get(name))
        running = [name for name, record in self._records.items() if record.status in LIVE and not record.attached]
        if running:
            log.info("control takes over what runs", replicas=" ".join(running))

    async def _loop(self, tasks: asyncio.TaskGroup, slumber: Slumber) -> None:
        while not self._done():
            await self._tick(tasks, slumber)
            await self._pause(self._timing.busy_poll_s if self._busy() else self._timing.calm_poll_s)

    def _done(self) -> bool:
        return self._stopping.is_set() or self._orphaned()

    def _busy(self) -> bool:
        calm = (_S.READY, _S.STANDBY, _S.ASLEEP, _S.FAILED, _S.STOPPED)
        return bool(self._clearing) or any(
            record.status not in calm for record in self._records.values() if not record.attached
        )

    async def _pause(self, seconds: float) -> None:
        """Until somebody wakes the loop, or the time is up."""
        timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    async def _tick(self, tasks: asyncio.TaskGroup, slumber: Slumber) -> None:
        snapshot = await self._look()
        if snapshot is None:
            return
        now = time.monotonic()
        for move in lifecycle.decide(await self._view(snapshot, now), now):
            await self._act(move, now, shutting_down=snapshot.shutting_down)
        if not snapshot.shutting_down:
            await self._insist(snapshot)
            self._clear_up(tasks)
            self._tell_all(tasks, slumber)
        self._publish()

    async def _look(self) -> Snapshot | None:
        """None when supervisord does not answer, which is told once."""
        try:
            snapshot = await self.supervisor.snapshot()
        except ControlError as error:
            if self._reachable and not self._done():
                log.error("supervisord cannot be asked; nothing is started or stopped", error=str(error))
            self._reachable = False
            return None
        self._reachable = True
        return snapshot

    async def _view(self, snapshot: Snapshot, now: float) -> Observation:
        dead = []
        for name, record in self._records.items():
            process = snapshot.processes.get(name)
            if process is not None and process.alive:
                self._records[name] = replace(record, pid=process.pid)
            elif record.status in LIVE and name in self._followers and not snapshot.shutting_down:
                self._followers[name].catch_up()
                dead.append((name, process, self._followers[name].recent))
        return self._seen(snapshot, await self._deaths.explain(dead, now) if dead else {})

    def _seen(self, snapshot: Snapshot, failures: dict[str, Failure]) -> Observation:
        return Observation(
            records=tuple(self._records.values()),
            processes=snapshot.processes,
            failures=failures,
            routes=self._plan.models,
            restarts=self._plan.restarts,
            timing=self._timing,
            shutting_down=snapshot.shutting_down,
        )

    async def _act(self, move: Transition, now: float, *, shutting_down: bool) -> None:
        before = self._records[move.name]
        self._records[move.name] = record = lifecycle.apply(before, move, now)
        announce(before, record, now)
        if move.to is _S.READY:
            self._hint(record)
        elif move.to is _S.STARTING:
            await self._start(record)
        elif move.to is _S.ASLEEP:
            self._used_before.pop(move.name, None)  # that was before it gave back what it had
        elif move.to is _S.STOPPING and not shutting_down:
            await self._stop(record)

    async def _start(self, record: Record) -> None:
        name = record.replica.name
        self._used_before[name] = await asyncio.to_thread(self._gpus.used, record.replica.gpus)
        self._followers[name].begin()
        try:
            await self.supervisor.start(name)
        except ControlError as error:
            snapshot = await self._look()
            if snapshot is None or not snapshot.shutting_down:
                now = time.monotonic()
                view = self._seen(snapshot or Snapshot(), {})
                move = lifecycle.failed(record, Failure(reason=str(error)), view, now)
                await self._act(move, now, shutting_down=False)

    async def _stop(self, record: Record) -> None:
        try:
            await self.supervisor.stop(record.replica.name)
        except ControlError as error:  # `_insist` tries again
            log.error("replica could not be stopped", replica=record.replica.name, error=str(error))

    async def _insist(self, snapshot: Snapshot) -> None:
        """A stop that supervisord has not heard of, because it or control was away, is asked for again."""
        for name, record in self._records.items():
            process = snapshot.processes.get(name)
            if record.status is _S.STOPPING and process is not None and process.state is ProcessState.RUNNING:
                await self._stop(record)

    def _hint(self, record: Record) -> None:
        if self._notes.hinted:
            return
        self._notes = replace(self._notes, hinted=True)
        route = next((route for route in self._plan.models if record.replica.name in route.replicas), None)
        if route is not None:
            log.info(try_it(self._plan, route))

    def _clear_up(self, tasks: asyncio.TaskGroup) -> None:
        for name, record in self._records.items():
            if record.status not in LIVE and not record.clear and name not in self._clearing:
                self._clearing[name] = tasks.create_task(self._clear(name))

    async def _clear(self, name: str) -> None:
        before = self._used_before.get(name)
        await clear_up(self._plan.paths, self._records[name].replica, self._gpus, before, self._timing)
        self._records[name] = replace(self._records[name], clear=True)
        self._clearing.pop(name, None)
        self._wake.set()

    def _tell_all(self, tasks: asyncio.TaskGroup, slumber: Slumber) -> None:
        """Those that are to fall asleep or to wake are told so, once."""
        for name, record in self._records.items():
            told, sleep = record.answer is not None or name in self._telling, record.replica.sleep
            if sleep and record.status in (_S.FALLING_ASLEEP, _S.WAKING) and not told:
                self._telling[name] = tasks.create_task(self._tell(slumber, record, sleep))

    async def _tell(self, slumber: Slumber, record: Record, sleep: Sleep) -> None:
        name = record.replica.name
        call = slumber.put_to_sleep if record.status is _S.FALLING_ASLEEP else slumber.wake
        answer = await call(record.replica, sleep)
        latest = self._records[name]
        if (latest.status, latest.since) == (record.status, record.since):
            self._records[name] = replace(latest, answer=answer)
        self._telling.pop(name, None)
        self._wake.set()

    async def _watch(self, prober: Prober, name: str) -> None:
        while not self._done():  # it is cancelled too, but an HTTP client may swallow that
            record = self._records[name]
            probe, pause_s = self._question(record)
            if probe is not None:
                self._note_answer(name, record.starts, await prober.ask(record.replica, probe))
            await asyncio.sleep(pause_s)

    def _question(self, record: Record) -> tuple[Probe | None, float]:
        """Which probe is due, and how long to wait after it."""
        replica, timing = record.replica, self._timing
        if record.attached:
            return (replica.alive if record.health.answered else replica.ready), timing.alive_probe_s
        if record.status is _S.READY:
            return replica.alive, timing.alive_probe_s
        return (replica.ready if record.status is _S.STARTING else None), timing.ready_probe_s

    def _note_answer(self, name: str, starts: int, error: str) -> None:
        record = self._records[name]
        if record.starts != starts:
            return
        self._records[name] = replace(record, health=after_probe(record.health, error))
        if not error and record.status is not _S.READY:
            self._wake.set()

    def _listener(self, name: str) -> Callable[[str], None]:
        def heard(line: str) -> None:
            record = self._records.get(name)
            if record is None or record.status is not _S.STARTING:
                return
            tracker = load_progress.advance(record.tracker, line)
            if tracker is record.tracker:
                return
            moved_at = time.monotonic() if tracker.moves != record.tracker.moves else record.moved_at
            self._records[name] = replace(record, tracker=tracker, moved_at=moved_at)
            if tracker.progress.phase != record.tracker.progress.phase:
                log.info("replica loads", replica=name, phase=tracker.progress.phase)

        return heard

    async def _beat(self) -> None:
        while True:
            self._gpu_states = await asyncio.to_thread(self._gpus.read)
            self._deaths.look(time.monotonic())
            self._publish(always=True)
            await asyncio.sleep(self._timing.heartbeat_s)

    def _publish(self, *, always: bool = False) -> None:
        records = tuple(self._records.values())
        positions = {name: follower.position for name, follower in self._followers.items()}
        notes = note(records, positions, replace(self._notes, kills=self._deaths.latest))
        self._publisher.publish(records, self._gpu_states, notes, always=always)

    async def _leave(self) -> None:
        """There are three ways: 1. supervisord is gone: control ends all engines. 2. supervisord shuts down: it has
        stopped the engines, control sweeps what is left of them. 3. only control is stopped: the engines serve on.
        """
        if self._orphaned():
            log.error("supervisord is gone: all engines are stopped", next="start Berth again")
            await self._end_engines(self._timing.farewell_s)
            return
        snapshot = await self._look()
        if snapshot is not None and snapshot.shutting_down:
            await self._end_engines(self._timing.hurry_s)

    async def _end_engines(self, grace_s: float) -> None:
        self._wind_down(_S.STOPPING)
        await end_all(self._plan.paths, self._followers, grace_s)
        self._wind_down(_S.STOPPED)

    def _wind_down(self, to: ReplicaStatus) -> None:
        """No router sends the engines anything any more."""
        now = time.monotonic()
        for name, record in self._records.items():
            if name in self._followers and to in TRANSITIONS[record.status]:
                self._records[name] = lifecycle.apply(record, Transition(name=name, to=to, reason=BERTH_STOPS), now)
        self._publish()

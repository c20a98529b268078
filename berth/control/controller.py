"""The control loop: observe, decide, act, publish."""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from berth.control.act import Executor, end_engines
from berth.control.adapter_loader import AdapterLoader
from berth.control.attached.attachment import Attachments
from berth.control.boxes.link import Boxes
from berth.control.decisions import (
    eviction,
    gates,
    lifecycle,
    migrations,
    preemption,
    residency,
    shadows,
    sleepers,
)
from berth.control.decisions.records import LIVE, Observation, Record, Timing
from berth.control.decisions.requests import operation_of
from berth.control.events import log_example_request
from berth.control.hangs.canary import Canary
from berth.control.hangs.starts import watch_starts
from berth.control.hangs.tokens import watch_tokens
from berth.control.ledger.audit_log import AuditLog
from berth.control.ledger.key_watch import KeyWatch
from berth.control.ledger.usage_writer import UsageWriter
from berth.control.logs.engine_logs import Follower, Output
from berth.control.migrating.dresser import COMMAND
from berth.control.migrating.examination import Examination
from berth.control.migrating.migrator import Migrator, canaries
from berth.control.migrating.shadower import Shadower
from berth.control.observe import Observer
from berth.control.operations import adapters, denials
from berth.control.operations.captures import Captures
from berth.control.operations.server import serve
from berth.control.operations.store import NOTHING
from berth.control.probes import Prober
from berth.control.publish import ControlState, Held, Publisher, Room, Seen, control_state, read_previous
from berth.control.recovery import restore
from berth.control.runtime import Runtime
from berth.control.sleep import SleepMode
from berth.control.supervisord_client import Snapshot, SupervisordClient
from berth.control.watch import on_log_line, probe_replica, watch_attached
from berth.control.watches.adapters import AdapterWatch
from berth.control.watches.certificate import OF_FILES, CertificateWatch
from berth.control.watches.host import HostWatch
from berth.control.watches.load import LoadWatch
from berth.control.watches.routers import watch_router
from berth.errors import ControlError
from berth.host import tls
from berth.host.gpu_usage import Gpus
from berth.host.tls import CertificateError
from berth.ipc import bench, traffic
from berth.ipc.bench import Bench, Order
from berth.ipc.heartbeats import BEAT_S, CONTROL, Heartbeat
from berth.ipc.operations import Action, Change, Operation, Reply, Request
from berth.ipc.revising import Revised
from berth.log import log
from berth.plan import Keys, Plan
from berth.processes import live_processes, replace_file
from berth.state import GpuState, ReplicaStatus

_S = ReplicaStatus
_STEADY = frozenset({_S.READY, _S.STANDBY, _S.ASLEEP, _S.FAILED, _S.STOPPED, _S.UNLOADED})


class Controller:
    """Keeps the replicas of one plan running until `stop` is called, or supervisord is gone."""

    _preempted: frozenset[str] = frozenset()  # draining replicas whose requests are given up
    _migrator: Migrator | None = None  # while `run` runs

    def __init__(
        self,
        plan: Plan,
        keys: Keys,
        *,
        orphaned: Callable[[], bool],
        timing: Timing | None = None,
        output: Output | None = None,
        gpus: Gpus | None = None,
        reviser: Sequence[str] = COMMAND,
    ) -> None:
        self._plan, self._keys, self._orphaned, self._reviser = plan, keys, orphaned, reviser
        output = output or Output(plan.logs.format)
        self.supervisord = SupervisordClient(plan.paths.supervisord_socket)
        self._records: dict[str, Record] = {}
        self._followers = {
            name: Follower(plan.paths.replica_log(name), name, output, partial(on_log_line, self._records, name))
            for name in (replica.name for replica in plan.replicas if replica.launch is not None)
        }
        self._runtime = Runtime(
            plan=plan,
            timing=timing or Timing(),
            supervisord=self.supervisord,
            gpus=gpus or Gpus(gpu.index for gpu in plan.inventory.gpus),
            records=self._records,
            followers=self._followers,
        )
        self._boxes = Boxes(self._runtime, keys.nodes_key)
        self._observer = Observer(self._runtime, self._is_stopping)
        self._publisher = Publisher(plan.paths)
        self._control_state, self._snapshot = ControlState(supervisord=""), Snapshot()  # the last ones
        self._gpu_states: tuple[GpuState, ...] = ()
        self._demand = self._runtime.demand
        self._adapter_watch = AdapterWatch(self._runtime, lambda: self._observer.observation(self._snapshot, {}))
        self._usage, self._audit = UsageWriter(plan), AuditLog(plan.paths.data_dir)
        self._captures = Captures(plan, self._audit.add)
        self._key_watch = KeyWatch(plan, keys, self._keys_changed)
        self._host, self._certificate = HostWatch(plan), CertificateWatch(plan, self._renew_certificate)
        self._shadower = Shadower(self._runtime)
        self._stopping = asyncio.Event()

    def _keys_changed(self, result: str, details: Mapping[str, str]) -> None:
        self._usage.keys_changed.set()
        self._audit.add("the file of the API keys", "keys", result, details)

    def stop(self) -> None:
        """Ends `run` soon. Engines keep running unless supervisord is shutting down or gone."""
        self._stopping.set()
        self._runtime.changed.set()

    async def run(self) -> None:
        shutting_down = False
        try:
            await self._run()
            snapshot = await self._observer.poll()
            shutting_down = snapshot is not None and snapshot.shutting_down
        finally:
            await self._usage.flush()
            await self._audit.flush()
            await self._leave(shutting_down=shutting_down)

    async def _run(self) -> None:
        timing = self._runtime.timing
        async with Prober(self._keys.upstream_keys) as prober, asyncio.TaskGroup() as tasks:
            alive = [tasks.create_task(endless) for endless in (self._beat(), watch_router(self._plan.paths))]
            canary = Canary(prober, self._plan.limits.first_token_timeout_s)
            sleep_mode = SleepMode(prober, canary, lambda replica: self._runtime.gpus.used(replica.gpus), timing)
            executor = Executor(self._runtime, self._observer, sleep_mode, tasks)
            loader = AdapterLoader(self._runtime, prober, tasks)
            examination = Examination(prober, canary, self._plan.limits.first_token_timeout_s)
            self._migrator = migrator = Migrator(self._runtime, examination, tasks, self._reviser)
            snapshot = await self._observer.first_snapshot()
            if snapshot is not None:
                self._recover(snapshot, await self._observer.sleeping(prober, snapshot))
                attachments = Attachments(prober, self._plan)
                probes = [
                    watch_attached(self._runtime, attachments, name, self._is_stopping)
                    if record.attached
                    else probe_replica(self._runtime, prober, canary, name, self._is_stopping)
                    for name, record in self._records.items()
                    if not record.replica.follows
                ]
                follows = [follower.follow(timing.log_poll_s) for follower in self._followers.values()]
                own = self._background(prober, canary)
                background = [tasks.create_task(endless) for endless in (*probes, *follows, *own)]
                while not self._is_stopping():
                    await self._tick(executor)
                    loader.follow_up()
                    is_busy = executor.is_cleaning_up or any(
                        record.status not in _STEADY for record in self._records.values() if not record.attached
                    )
                    await self._runtime.pause(timing.busy_poll_s if is_busy else timing.calm_poll_s)
                for task in background:
                    task.cancel()
                executor.cancel()
                loader.cancel()
                migrator.cancel()
            for task in alive:
                task.cancel()

    def _background(self, prober: Prober, canary: Canary) -> Iterable[Coroutine[Any, Any, None]]:
        """What runs next to the decisions, until it is cancelled."""
        return (
            self._heartbeat(),
            LoadWatch(self._runtime, prober).run(self._is_stopping),
            serve(self._plan.paths.control_socket, self._asked),
            self._runtime.memory.run(),
            self._boxes.run(),
            self._key_watch.run(),
            self._usage.run(),
            self._audit.run(),
            self._host.run(),
            self._certificate.run(),
            self._adapter_watch.run(),
            watch_starts(self._runtime, self._is_stopping),
            watch_tokens(self._runtime, prober, canary, self._is_stopping),
        )

    def _recover(self, snapshot: Snapshot, sleeping: dict[str, bool]) -> None:
        """Restores the records, at the start of control."""
        now = time.monotonic()
        state, self._control_state = read_previous(self._plan.paths, snapshot.supervisord)
        restored = restore(
            lifecycle.first_records(self._plan, now),
            state,
            self._control_state,
            snapshot.processes,
            sleeping,
            routes=self._plan.models,
            now=now,
            offset_s=self._publisher.offset_s,
        )
        self._observer.diagnosis.sample(now, self._control_state.kills)
        self._runtime.operations.resume(self._control_state.kept)
        if state is None:
            self._runtime.operations.pin(route.name for route in self._plan.models if route.pin)
        self._records.update((record.replica.name, record) for record in restored)
        for name, follower in self._followers.items():
            follower.resume(self._control_state.log_positions.get(name))
        running = [record.replica.name for record in restored if record.status in LIVE and not record.attached]
        if running:
            log.info("recovered running replicas", replicas=" ".join(running))

    async def _tick(self, executor: Executor) -> None:
        snapshot = await self._observer.poll()
        if snapshot is None:
            return
        self._snapshot = snapshot
        now = time.monotonic()
        observation, memory = await self._observer.observe(snapshot, now), self._runtime.memory
        starting = [] if snapshot.shutting_down else list(lifecycle.leased(observation, now))
        memory.judge([self._records[one.name] for one in starting], now)
        held, generations = self._boxes.judge([self._records[one.name] for one in starting], now)
        self._observer.held = held
        observation = replace(
            observation,
            unproven=memory.unproven,
            not_free=memory.not_free,
            held=held,
            generations=generations,
            ends=self._boxes.ends(snapshot.processes, now),
        )
        for transition in lifecycle.decide(observation, now):
            await executor.execute(transition, now, shutting_down=snapshot.shutting_down)
            follows = self._records[transition.name].replica.follows
            if transition.to is _S.READY and not follows and not self._control_state.hinted:
                self._control_state = replace(self._control_state, hinted=True)
                log_example_request(self._plan, transition.name)
        if not snapshot.shutting_down:
            await executor.follow_up(snapshot)
            await self._settle(snapshot)
            if self._migrator is not None:
                await self._migrator.follow_up(self._observer.observation(snapshot, {}))
            self._shadower.follow_up(self._observer.observation(snapshot, {}), self._publisher.sequence)
        self._captures.poll()
        self._publish()

    async def _settle(self, snapshot: Snapshot) -> None:
        """Does and ends what was requested."""
        operations = self._runtime.operations
        if operations.take_reload():
            try:
                await self._reload_router()
            except (ControlError, CertificateError, OSError) as error:
                operations.reload_failed(str(error))
        if (lease := operations.take_bench()) is not None:
            try:
                await self._start_bench(lease)
            except (ControlError, OSError) as error:
                operations.bench_failed(lease, str(error))
        now = time.monotonic()
        demands = self._demand.read(now)
        observation = self._observer.observation(snapshot, {})
        moment, kept = eviction.Moment(now=now, wall=time.time()), operations.kept
        for found in residency.decide(observation, demands, operations.kept.pins, moment):
            operations.decided(found, observation, now)
        if operations.kept is not kept:
            self._runtime.changed.set()  # it is done in the next round, which comes at once
        if operations.running:
            self._end_operations(snapshot)
        self._preempt(observation, now)
        self._audit.settled(operations.find)

    def _end_operations(self, snapshot: Snapshot) -> None:
        """Those that are over. The router's worker that leaves has no heartbeat any more while it still writes down
        what it counted: only its process says that it has ended.
        """
        operations = self._runtime.operations
        workers = live_processes(pid for one in operations.running for pid in one.workers)
        operations.settle(self._observer.observation(snapshot, {}), workers, time.monotonic())

    def _preempt(self, observation: Observation, now: float) -> None:
        """A control that runs after this one sees by the reason that it was reported already."""
        found = preemption.preempted(observation, now)
        self._preempted = frozenset(record.replica.name for record in found)
        for record in found:
            if not record.reason.endswith(preemption.PREEMPTED):
                name, reason = record.replica.name, f"{record.reason}; {preemption.PREEMPTED}"
                self._records[name] = replace(self._records[name], reason=reason)
                log.info("requests preempted", replica=name, after_s=round(now - record.since, 1), reason=record.reason)
                self._runtime.events.preempted(record, operation_of(record, observation.operations))

    async def _start_bench(self, lease: Operation) -> None:
        """It holds the lease from then on. ControlError or OSError: it does not run."""
        order = Order(operation=lease.id, model=lease.model, bench=lease.bench or Bench())
        replace_file(bench.path(self._plan.paths), msgspec.json.encode(order), 0o600)
        if not await self.supervisord.start_bench():
            self._runtime.operations.bench_waits(lease)

    async def _reload_router(self) -> None:
        """ControlError, CertificateError or OSError: the workers are not replaced."""
        listen = self._plan.listen
        if listen.tls_cert:
            await asyncio.to_thread(tls.install, listen.tls_cert, listen.tls_key, self._plan.paths.tls)
        await self.supervisord.reload_router()

    def _renew_certificate(self) -> bool:
        """Whether the router will be reloaded."""
        change = Change(action=Action.RELOAD, by=OF_FILES)
        reply = self._changed(change, None)
        self._runtime.changed.set()
        self._audit.answered(Request(change=change, who=OF_FILES), reply)
        return reply.denial is None

    async def _asked(self, request: Request) -> Reply:
        """By a client of the control socket. What has to be planned first, is; the answer itself is of one moment."""
        change, revised = request.change, None
        if change is not None and self._migrator is not None:
            revised = await self._migrator.prepared(change, self._observer.observation(self._snapshot, {}))
        if request.events_after is not None:
            return Reply(events=self._runtime.events.after(request.events_after))
        reply = self._answer(request) if change is None else self._changed(change, revised)
        self._publish()  # routers must not refuse for an earlier state what follows a reply
        if request.operation or request == Request(who=request.who, origin=request.origin):
            return reply
        self._runtime.changed.set()
        self._audit.answered(request, reply)
        return reply

    def _changed(self, change: Change, revised: Revised | None) -> Reply:
        """`revised`: the model as a migration would have it planned."""
        operations, around = self._runtime.operations, NOTHING
        known = {one.id for one in operations.running}
        live = tuple(traffic.workers(self._plan.paths.heartbeats).values())
        if self._migrator is not None:
            around = self._migrator.around(change, revised)
        if change.shadow is not None:
            around = self._shadower.around(change)
        self._end_operations(self._snapshot)  # what has come to its end is no reason to deny another
        now = time.monotonic()
        observation = self._observer.observation(self._snapshot, {})
        reply = operations.ask(change, observation, workers=live, now=now, around=around)
        is_new = reply.operation is not None and reply.operation.id not in known and not change.dry_run
        if self._migrator is not None and reply.operation is not None and revised is not None and is_new:
            self._migrator.keep(reply.operation, revised)
        return reply

    def _answer(self, request: Request) -> Reply:
        """To all but changes."""
        operations = self._runtime.operations
        observation = self._observer.observation(self._snapshot, {})
        if request.cancel:
            reply = operations.cancel(request.cancel, by=request.who or "an operator")
        elif request.renew is not None:
            reply = operations.renew(request.renew, observation, time.monotonic())
        elif request.move is not None:
            reply = operations.move(request.move, request.who or "an operator", time.monotonic())
        elif request.keep is not None:
            reply = operations.keep(request.keep, observation)
        elif request.adapter is not None:
            reply, operations.kept = adapters.ask(request.adapter, observation, operations.kept)
            ignored = self._adapter_watch.ignored(request.adapter.model)
            reply = replace(reply, adapters=(*reply.adapters, *ignored))
        elif request.capture is not None:
            reply = self._captures.ask(request.capture)
        elif request.operation:
            found = operations.find(request.operation)
            denial = denials.unknown_operation(request.operation)
            reply = operations.reply(found, observation) if found else Reply(denial=denial)
        else:
            moving = {one.id: gates.of_migration(one.migration) for one in operations.running if one.migration}
            reply = Reply(operations=operations.kept.operations, pins=operations.kept.pins, gates=moving)
        return reply

    def _is_stopping(self) -> bool:
        return self._stopping.is_set() or self._orphaned()

    async def _beat(self) -> None:
        """Shows that this event loop runs; `_heartbeat` shows routers what is known."""
        heartbeat = Heartbeat(self._plan.paths.heartbeats, CONTROL)
        try:
            while True:
                heartbeat.beat()
                await asyncio.sleep(BEAT_S)
        finally:
            heartbeat.close()

    async def _heartbeat(self) -> None:
        while True:
            self._gpu_states = await self._runtime.memory.look(
                lambda: self._observer.observation(self._snapshot, {}), lambda: self._runtime.operations.kept.pins
            )
            self._observer.diagnosis.sample(time.monotonic())
            self._publish(always=True)
            await asyncio.sleep(self._runtime.timing.heartbeat_s)

    def _publish(self, *, always: bool = False) -> None:
        records = tuple(self._records.values())
        positions = {name: follower.position for name, follower in self._followers.items()}
        kept = self._runtime.operations.kept
        before = replace(self._control_state, kills=self._observer.diagnosis.latest, kept=kept)
        control = control_state(records, positions, before)
        expires = self._demand.expires(records, kept.keep) if self._demand.watches else {}
        spares = {name for route in self._plan.models for name in set(route.replicas).difference(kept.wanted(route))}
        unused = self._certificate.problem
        budget_bytes = sleepers.budget_bytes(records, self._runtime.memory.ram)
        host = replace(
            self._host.state,
            keys_problem=self._key_watch.problem,
            tls_unused=unused,
            sleep_budget_bytes=budget_bytes,
        )
        gone, taken = self._runtime.gpus.gone, self._runtime.ledger.taken
        seen = Seen(gpus=self._gpu_states, gone=gone, taken=taken, host=host, capture=self._captures.current)
        self._publisher.publish(records, seen, control, self._held(spares), expires=expires, always=always)
        for record in records:
            if record.status is _S.DRAINING and record.drain_sequence is None:
                name = record.replica.name
                self._records[name] = replace(record, drain_sequence=self._publisher.sequence)

    def _held(self, spares: Collection[str]) -> Held:
        """What replicas wait for, and how long that takes."""
        running, times = self._runtime.operations.running, self._runtime.times
        seconds = {name: times.expected_s(one) for name, one in self._records.items()}
        return Held(
            rooms=self._rooms(),
            not_free=self._runtime.memory.not_free,
            spares=spares,
            expected_s={name: one for name, one in seconds.items() if one is not None},
            expected_phases={name: times.expected_phases(one) for name, one in self._records.items()},
            leased={name: one.key_digest for one in running if one.action is Action.LEASE for name in one.replicas},
            held=self._observer.held,
            ranks=self._boxes.views(),
            unproven=migrations.unproven(running),
            awaited=migrations.held(running),
            canaries=canaries(running),
            preempted=self._preempted,
            hidden=shadows.hidden(running),
            mirrors=shadows.mirrors(running, self._ready(), self._publisher.offset_s),
        )

    def _ready(self) -> frozenset[str]:
        return frozenset(name for name, one in self._records.items() if one.status is _S.READY)

    def _rooms(self) -> dict[str, Room]:
        if not self._plan.room:
            return {}
        observation, pins = self._observer.observation(self._snapshot, {}), self._runtime.operations.kept.pins
        rooms = {}
        waiting = eviction.without_room(observation)
        for route in self._plan.models:
            blocker = eviction.blocker(route, observation, pins)
            if blocker or route in waiting:
                names = eviction.blocked(route, observation, pins)[1] or eviction.sharers(route, observation)
                held_by = blocker or eviction.awaited(route, observation)
                room = Room(held_by=held_by, holders=tuple(names), obstructed=bool(blocker))
                rooms.update(dict.fromkeys(route.replicas, room))
        return rooms

    async def _leave(self, *, shutting_down: bool) -> None:
        """Also after an error. There are three cases: 1. supervisord is gone: control terminates all engines, since no
        other control will 2. supervisord shuts down: it has stopped the engines, and control terminates leftover
        processes 3. only control stops: engines keep running.
        """
        try:
            if self._orphaned():
                log.error("supervisord gone, stopping all engines", next="start Berth again")
                await end_engines(self._runtime, self._runtime.timing.orphaned_grace_s, self._publish)
            elif shutting_down:
                await end_engines(self._runtime, self._runtime.timing.shutdown_grace_s, self._publish)
        finally:
            self.supervisord.close()
            for follower in self._followers.values():
                follower.close()

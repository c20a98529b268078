"""Runs the migrations: observes, lets `decisions.migrations` decide, and keeps the result before anything acts by it.

Nothing of a migration is in memory alone: its phase and counts are in the operation, which survives control. A check
or a probe that control's death cut off is made again.
"""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from berth.control.decisions import migrations
from berth.control.decisions.records import Observation
from berth.control.migrating.dresser import COMMAND, Dresser
from berth.control.migrating.evidence import Evidence
from berth.control.migrating.examination import Examination, Finding
from berth.control.operations import planning
from berth.control.operations.store import NOTHING
from berth.control.operations.targets import Around
from berth.control.runtime import Runtime
from berth.host import cgroup
from berth.ipc import traffic
from berth.ipc.migration import How, Migration, Options, Phase
from berth.ipc.operations import Action, Change, Operation
from berth.ipc.revising import Revised
from berth.log import log
from berth.plan import Revision, RevisionState
from berth.records import revisions
from berth.state import Canary

WRITE_S: Final = 5.0  # for a revision: a disk that hangs must not stop control
PROBES: Final = 8  # at the same time


class Migrator:
    """At most one check, or one round of probes, for each migration."""

    def __init__(
        self,
        runtime: Runtime,
        examination: Examination,
        tasks: asyncio.TaskGroup,
        reviser: Sequence[str] = COMMAND,
    ) -> None:
        """`reviser`: the program that plans a model again."""
        self._runtime = runtime
        self._examination = examination
        self._tasks = tasks
        self._evidence: Evidence | None = None  # while there are migrations
        self._findings: dict[str, Finding] = {}  # by operation
        self._rejected: set[str] = set()  # operations whose revision is written as such
        self._busy: dict[str, asyncio.Task[None]] = {}
        self.dresser = Dresser(runtime, reviser)

    def cancel(self) -> None:
        for task in self._busy.values():
            task.cancel()
        if self._evidence is not None:
            self._evidence.close()

    async def follow_up(self, observation: Observation) -> None:
        running = {one.id: one.migration for one in observation.operations if one.migration is not None}
        if not running:
            if self._evidence is not None:
                self._evidence.close()
                self._evidence = None
            return
        self._evidence = self._evidence or Evidence(self._runtime.plan)
        counted = dict(zip(running, self._evidence.counted(running.values()), strict=True))
        for operation in observation.operations:
            if (migration := counted.get(operation.id)) is not None:
                await self.advance(operation, migration, observation)

    async def advance(self, operation: Operation, migration: Migration, observation: Observation) -> None:
        now, operations = time.monotonic(), self._runtime.operations
        view = await self.view(operation, migration, observation)
        found = self._findings.get(operation.id)
        if found is not None and migration.check != found.summary:
            migration = replace(migration, check=found.summary)
        after = self._dressed(migrations.advance(migration, view, now), now)
        if after.phase is Phase.ROLLING_BACK:
            await self._reject(operation, after)
        latest = operations.find(operation.id)
        if latest is None or latest.migration != operation.migration:
            return  # somebody has changed it meanwhile: again from there
        if after != operation.migration:
            operations.progressed(operation, after)
        if (after.phase, after.step, after.paused) != (migration.phase, migration.step, migration.paused):
            log_phase(operation, after)
            self._runtime.events.migration(operation, after)
            self._runtime.changed.set()
        if after.phase is Phase.DONE and after.revised:
            self._finish(operation, after, observation)
        self._begin_work(operation, after, now)

    def _dressed(self, migration: Migration, now: float) -> Migration:
        """The migration after what is to be done to the plan by now."""
        candidate = self._runtime.records[migration.candidate]
        if migrations.must_dress(migration, candidate):
            if error := self.dresser.dress(migration):
                return migrations.roll_back(migration, f"the plan cannot be written: {error}", now)
            return replace(migration, dressed=True)
        if migrations.must_undress(migration, candidate) and not self.dresser.dress(migration, back=True):
            return replace(migration, dressed=False, since=now)
        return migration

    def _finish(self, operation: Operation, migration: Migration, observation: Observation) -> None:
        """Of a revision with another command line: the replicas that are left get theirs. New router workers show what
        has changed of the model.
        """
        error = self.dresser.dress(migration)
        if error or self.dresser.read(migration).before.route == self.dresser.read(migration).after.route:
            return
        workers = tuple(traffic.workers(self._runtime.plan.paths.heartbeats).values())
        reload = Change(action=Action.RELOAD, by=f"migration {operation.id}")
        self._runtime.operations.ask(reload, observation, workers=workers, now=time.monotonic())

    async def view(self, operation: Operation, migration: Migration, observation: Observation) -> migrations.View:
        records, name = self._runtime.records, migration.candidate
        found = self._findings.get(operation.id) if migration.phase is Phase.CHECKING else None
        written = None
        if migration.phase is Phase.PROMOTING and not migration.paused:
            written = await self._write(operation, migration, RevisionState.PROMOTED)
        return migrations.View(
            candidate=records[name],
            stable=records[migration.stable],
            starts=operation.starts.get(name, 0),
            checked=found.error if found is not None else None,
            written=written,
            not_free=observation.not_free.get(name, ""),
        )

    def _begin_work(self, operation: Operation, migration: Migration, now: float) -> None:
        """The check, or probes where there are too few requests."""
        number = operation.id
        if migration.phase is not Phase.CHECKING:
            self._findings.pop(number, None)
        if number in self._busy:
            return
        if migration.phase is Phase.CHECKING and number not in self._findings:
            self._busy[number] = self._tasks.create_task(self.check(operation, migration))
        elif migrations.is_quiet(migration, now):
            self._busy[number] = self._tasks.create_task(self.probe(operation, migration))

    async def check(self, operation: Operation, migration: Migration) -> None:
        records = self._runtime.records
        stable = records[migration.stable].replica if migration.how is How.BOTH else None
        self._findings[operation.id] = await self._examination.check(records[migration.candidate].replica, stable)
        self._done(operation)

    async def probe(self, operation: Operation, migration: Migration) -> None:
        """Requests of Berth's own to the candidate. They count like those of clients."""
        replica = self._runtime.records[migration.candidate].replica
        errors = await asyncio.gather(*(self._examination.probe(replica, number) for number in range(PROBES)))
        latest = self._runtime.operations.find(operation.id)
        if latest is not None and latest.running and latest.migration is not None:
            own = latest.migration.own
            failures = sum(map(bool, errors))
            counts = {"attempts": own.attempts + PROBES, "probes": own.probes + PROBES}
            own = replace(own, failures=own.failures + failures, **counts)
            self._runtime.operations.progressed(latest, replace(latest.migration, own=own))
        self._done(operation)

    def _done(self, operation: Operation) -> None:
        self._busy.pop(operation.id, None)
        self._runtime.changed.set()

    async def _reject(self, operation: Operation, migration: Migration) -> None:
        """Before anything else: the next start must not take the revision, also where it was promoted already."""
        if operation.id not in self._rejected and not await self._write(operation, migration, RevisionState.REJECTED):
            self._rejected.add(operation.id)

    async def _write(self, operation: Operation, migration: Migration, state: RevisionState) -> str:
        """The error; "" once it is on the disk."""
        revision = self.revision(operation, migration, state)
        try:
            async with asyncio.timeout(WRITE_S):
                await asyncio.to_thread(revisions.keep, self._runtime.plan.paths.data_dir, revision)
        except TimeoutError:
            error = f"the disk did not answer within {WRITE_S:g} s"
        except (OSError, ValueError) as exc:
            error = str(exc)
        else:
            return ""
        log.warning("revision not written", model=operation.model, number=migration.revision, reason=error)
        return error

    def revision(self, operation: Operation, migration: Migration, state: RevisionState) -> Revision:
        """What the model is with the candidate in front."""
        began = next(one for one in self._runtime.plan.revisions if one.model == operation.model)
        route = next(one for one in self._runtime.plan.models if one.name == operation.model)
        known = revisions.read(self._runtime.plan.paths.data_dir).promoted(operation.model) or began
        revised = self.dresser.read(migration).after if migration.revised else None
        names = (
            dict(zip(began.order, revised.engines, strict=False))
            if revised
            else dict(zip(known.order, known.engines, strict=False))
        )
        places = dict(zip(route.replicas, began.order, strict=False))
        order = tuple(places[name] for name in migration.after) if began.order else ()
        engines = tuple(names.get(place, "") for place in order)
        return replace(
            known,
            v=2 if migration.changes else 1,
            number=migration.revision,
            at=int(time.time()),
            by=migration.by,
            order=order,
            engines=engines,
            says={**(revised or known).says} | ({"engines": ", ".join(engines)} if engines else {}),
            changes=migration.changes,
            state=state,
            reason=migration.reason,
            operation=operation.id,
        )

    async def prepared(self, change: Change, observation: Observation) -> Revised | None:
        """The model as it would be planned for this migration. None: as it is."""
        wanted = planning.wanted(change, observation, self.around(change))
        return await self.dresser.revised(wanted) if wanted is not None else None

    def keep(self, operation: Operation, revised: Revised) -> None:
        """Of a migration that was accepted. Where it cannot be written, it is rolled back."""
        migration = operation.migration
        if migration is None:
            return
        try:
            self.dresser.keep(migration, revised)
        except OSError as error:
            reason = f"the plan cannot be written: {error}"
            self._runtime.operations.progressed(operation, migrations.roll_back(migration, reason, time.monotonic()))

    def around(self, change: Change, revised: Revised | None = None) -> Around:
        """What the plan of a migration depends on, read now; of other changes nothing."""
        if change.action is not Action.MIGRATE:
            return NOTHING
        plan = self._runtime.plan
        model = next((one.name for one in plan.models if change.model in (one.name, *one.aliases)), "")
        evidence, now = self._evidence or Evidence(plan), time.time()
        per_s, longest_s = evidence.recent(model, now)
        usual = evidence.usual(model, change.migrate or Options(), now)
        if self._evidence is None:
            evidence.close()
        history = revisions.read(plan.paths.data_dir)
        return Around(
            ram_free_bytes=cgroup.available_memory(),
            requests_per_s=per_s,
            longest_s=longest_s,
            usual=usual,
            queue_size=plan.limits.queue_size,
            history=history,
            places=dict(self._places()),
            unwritable=unwritable(history, revisions.path(plan.paths.data_dir).parent),
            revised=revised,
        )

    def _places(self) -> Iterator[tuple[str, int]]:
        orders = {one.model: one.order for one in self._runtime.plan.revisions}
        for route in self._runtime.plan.models:
            yield from zip(route.replicas, orders.get(route.name, ()), strict=False)


def canaries(operations: tuple[Operation, ...]) -> tuple[Canary, ...]:
    """For the routers. Once it is promoted, the candidate is the first of the order."""
    return tuple(
        Canary(model=one.model, replica=one.migration.candidate, share=one.migration.share, salt=one.id)
        for one in operations
        if one.migration is not None
        and one.migration.phase in (Phase.CANARY, Phase.TRIAL, Phase.PROMOTING)
        and not one.migration.in_place
    )


def unwritable(history: revisions.History, folder: Path) -> str:
    if history.newer:
        return history.problem
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{str(folder)!r} cannot be written"


def log_phase(operation: Operation, migration: Migration) -> None:
    write = log.warning if migration.reason or migration.paused else log.info
    shown = {"migration": operation.id, "model": operation.model, "candidate": migration.candidate}
    if migration.phase is Phase.CANARY:
        shown["share"] = f"{migration.options.steps[migration.step]:g}%"
    reason = migration.reason or migration.paused
    write(f"migration {migration.phase}", **shown, **({"reason": reason} if reason else {}))

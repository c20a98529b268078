"""Migrations with a kill in one of their phases: `python -m tests.chaos.migration_kills` makes all of them.

A real supervisord with fake engines, and control in this process. Whatever is killed, and whenever: one of the two
replicas serves at the end, the revision on the disk is the one that runs, and control is at rest.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import psutil

from berth.control.controller import Controller
from berth.control.logs.engine_logs import Output
from berth.control.publish import read_control_state
from berth.ipc.control_socket import ask
from berth.ipc.migration import How, Migration, Options, Phase
from berth.ipc.operations import Action, Change, Operation, Request
from berth.plan import Author, Keys, Plan, Revision, Standby, read_plan
from berth.records.revisions import keep, read
from berth.state import ReplicaStatus
from tests.control.harness import FAST, ROOT, Appliance, appliance, engine, plan_of

C = TypeVar("C")

Victim = Literal["control", "candidate", "stable"]
OLD, NEW = "chat-old", "chat-new"
LIMIT_S = 60.0
_END = (Phase.PROMOTING, Phase.SETTLING)
BOTH = (Phase.STARTING, Phase.CHECKING, Phase.SHADOWING, Phase.CANARY, *_END, Phase.RETIRING)
SWAP = (Phase.HOLDING, Phase.STARTING, Phase.CHECKING, Phase.TRIAL, *_END)
# The ways of a migration: with another command line in the place of the engine that serves, it is one after the other.
Way = Literal["both", "swap", "place"]
BEGINS: dict[Way, tuple[Phase, ...]] = {"both": BOTH, "swap": SWAP, "place": SWAP}
VICTIMS: dict[Way, tuple[Victim, ...]] = {
    "both": ("control", "candidate", "stable"),
    "swap": ("control", "candidate", "stable"),
    "place": ("control", "candidate"),
}
REVISER = (sys.executable, str(ROOT / "tests/control/reviser.py"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    way: Way
    phase: Phase
    victim: Victim
    aborted: bool = False  # in the first phase that can be, so that it rolls back

    def __str__(self) -> str:
        return f"{self.way}-{self.phase}-{self.victim}{'-aborted' if self.aborted else ''}"


def cases() -> list[Case]:
    """All of them."""
    ways = [(way, phase) for way, phases in BEGINS.items() for phase in phases]
    found = [Case(way=way, phase=phase, victim=one) for way, phase in ways for one in VICTIMS[way]]
    back = [Case(way=way, phase=Phase.ROLLING_BACK, victim=one, aborted=True) for way in BEGINS for one in VICTIMS[way]]
    return [*found, *back]


def plan_in(run_dir: Path) -> Plan:
    old, new = engine(run_dir, OLD), engine(run_dir, NEW)
    says, engines = {"engines": "old, new"}, ("old", "new")
    one = Revision(model="chat", number=1, at=1, by=Author.ENV, base="b", order=(0, 1), engines=engines, says=says)
    plan = replace(plan_of(run_dir, old, new, standby=Standby.COLD), revisions=(one,))
    keep(plan.paths.data_dir, one)
    return plan


class Life:
    """Control, which can be killed and started again."""

    def __init__(self, box: Appliance) -> None:
        self.box = box
        self._start()

    def _start(self) -> None:
        output = Output("text", self.box.shown.append)
        plan = read_plan(self.box.plan.paths.run_dir)  # which another control may have changed
        self._control = Controller(plan, Keys(), orphaned=lambda: False, timing=FAST, output=output, reviser=REVISER)
        self._running = asyncio.ensure_future(self._control.run())

    async def kill(self) -> None:
        """And another one is started, as supervisord does."""
        self._running.cancel()
        await asyncio.wait([self._running])
        self._start()

    async def stop(self) -> None:
        self._control.stop()
        await self._running

    def operation(self) -> Operation | None:
        """The migration, as it is kept for the control that comes after this one."""
        state = read_control_state(self.box.plan.paths)
        operations = state.kept.operations if state is not None else ()
        return next((one for one in operations if one.migration is not None), None)

    def migration(self) -> Migration | None:
        operation = self.operation()
        return operation.migration if operation is not None else None

    async def until(self, *phases: Phase) -> None:
        """Each phase is seen: it is written before the next one is decided."""
        async with asyncio.timeout(LIMIT_S):
            while (found := self.migration()) is None or found.phase not in phases:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0)

    async def until_over(self) -> Operation:
        async with asyncio.timeout(LIMIT_S):
            while (found := self.operation()) is None or found.running:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.02)
        return found


async def run(case: Case, run_dir: Path) -> Operation:
    """AssertionError where the two do not agree at the end."""
    async with appliance(plan_in(run_dir)) as box:
        life = Life(box)
        try:
            await box.until_status(OLD, ReplicaStatus.READY)
            options = Options(steps=(50, 100), step_s=0.0, step_requests=8, keep_s=0.2, trial_s=0.2, shadow=0.5)
            if case.way == "place":
                options = replace(options, to=OLD, set=("args=dressed",))
            else:
                options = replace(options, to=NEW, how=How(case.way))
            change = Change(action=Action.MIGRATE, model="chat", migrate=options, drain_s=5.0)
            reply = await ask(box.plan.paths.control_socket, Request(change=change))
            assert reply.operation is not None, reply
            if case.aborted:
                await life.until(Phase.CHECKING)
                await ask(box.plan.paths.control_socket, Request(cancel=reply.operation.id))
            await life.until(case.phase, Phase.DONE, Phase.ROLLED_BACK)
            await _kill(case, life)
            operation = await life.until_over()
            await _agree(box, case.way)
            return operation
        finally:
            await life.stop()


async def _kill(case: Case, life: Life) -> None:
    if case.victim == "control":
        await life.kill()
        return
    pid = life.box.states()[OLD if case.victim == "stable" or case.way == "place" else NEW].pid
    if pid is not None:  # it does not run in this phase
        os.kill(pid, signal.SIGKILL)


async def _agree(box: Appliance, way: Way) -> None:
    """The first engine of the promoted revision serves, with its command line, and the other one rests."""
    promoted = read(box.plan.paths.data_dir).promoted("chat")
    assert promoted is not None
    first, second = (OLD, NEW) if promoted.order == (0, 1) else (NEW, OLD)
    states = await box.until(
        lambda states: (states[first].status, states[second].status) == (ReplicaStatus.READY, ReplicaStatus.STANDBY),
        LIMIT_S,
    )
    launch = read_plan(box.plan.paths.run_dir).replica(first).launch
    pid = states[first].pid
    assert launch is not None
    assert pid is not None
    assert tuple(psutil.Process(pid).cmdline()) == launch.argv
    assert (launch.argv[-1] == "dressed") == bool(promoted.changes) == (way == "place" and promoted.number > 1)


def main() -> int:
    def ended(case: Case) -> str:
        folder = tempfile.mkdtemp(prefix="kills-")
        try:
            operation = asyncio.run(run(case, Path(folder)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return f"{operation.state} {operation.reason}"

    return judged(cases(), ended)


def judged(every: Sequence[C], ended: Callable[[C], str]) -> int:
    """Prints how each case ended; 1 if one of them failed."""
    failed = 0
    for case in every:
        try:
            said = ended(case)
        except (AssertionError, TimeoutError) as error:
            failed += 1
            said = f"FAILED: {error!r}"
        sys.stdout.write(f"{case}: {said}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{len(every)} cases, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

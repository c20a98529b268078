"""Another command line of a model: planned by a program of its own, and in the plan only while a replica rests."""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.decisions.records import Record, Timing
from berth.control.hangs.canary import Canary
from berth.control.migrating.dresser import Dresser
from berth.control.migrating.examination import Examination
from berth.control.migrating.migrator import Migrator
from berth.control.operations.store import Kept
from berth.control.probes import Prober
from berth.control.runtime import Runtime
from berth.control.supervisord_client import SupervisordClient
from berth.host.gpu_usage import Gpus
from berth.ipc.migration import How, Migration, Options, Phase
from berth.ipc.operations import Action, Operation
from berth.ipc.revising import Revised, Wanted, dress_path
from berth.plan import Author, Keys, Launch, ModelRoute, Plan, Replica, Revision, RevisionState, Task, read_plan
from berth.state import ReplicaStatus
from tests.control.harness import ROOT
from tests.fakes.plans import make_plan, make_replica

pytestmark = pytest.mark.anyio
FAKE = (sys.executable, str(ROOT / "tests/control/reviser.py"))
WANTED = Wanted(model="chat", replica="chat-old", set=("args=dressed",))
MIGRATION = Migration(
    options=Options(set=WANTED.set), how=How.SWAP, candidate="chat-old", stable="chat-old", revision=2,
    before=("chat-old", "chat-new"), after=("chat-old", "chat-new"), phase=Phase.STARTING, since=0.0, revised=True,
    changes=("engines[0].args=dressed",),
)  # fmt: skip


def plan_in(folder: Path) -> Plan:
    replicas = [made(folder, name) for name in ("chat-old", "chat-new")]
    route = ModelRoute(name="chat", source="chat", task=Task.GENERATE, replicas=("chat-old", "chat-new"))
    says = {"engines": "old, new"}
    one = Revision(
        model="chat", number=1, at=1, by=Author.ENV, base="b", order=(0, 1), engines=("old", "new"), says=says
    )  # fmt: skip
    plan = replace(make_plan(str(folder), *replicas), models=(route,), revisions=(one,))
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.keys.write_bytes(Keys().to_json())
    return plan


def made(folder: Path, name: str) -> Replica:
    return make_replica(name, launch=Launch(argv=("engine", name), folders=(str(folder / f"cache-{name}"),)))


def runtime_of(folder: Path, *statuses: ReplicaStatus) -> Runtime:
    plan = plan_in(folder)
    records = {
        one.name: Record(replica=one, status=status, since=0.0)
        for one, status in zip(plan.replicas, statuses or (ReplicaStatus.STANDBY,) * 2, strict=True)
    }
    client = SupervisordClient(plan.paths.supervisord_socket)
    return Runtime(plan=plan, timing=Timing(), supervisord=client, gpus=Gpus([]), records=records, followers={})


def argv(runtime: Runtime, name: str) -> tuple[str, ...]:
    """In the plan, and in control's record of it: they agree."""
    replica = read_plan(runtime.plan.paths.run_dir).replica(name)
    assert replica == runtime.records[name].replica
    assert replica.launch is not None
    return replica.launch.argv


async def test_a_replica_at_rest_is_dressed_and_undressed(tmp_path: Path) -> None:
    runtime = runtime_of(tmp_path)
    dresser = Dresser(runtime, FAKE)
    revised = await dresser.revised(WANTED)
    assert (revised.wanted, revised.error, revised.changes) == (WANTED, "", ("engines[0].args=dressed",))
    dresser.keep(MIGRATION, revised)

    for _ in range(2):  # as after a kill
        assert dresser.dress(MIGRATION) == ""
        assert argv(runtime, "chat-old") == ("engine", "chat-old", "dressed")
    assert (tmp_path / "cache-chat-old").is_dir()
    assert read_plan(str(tmp_path)).models[0].context == 101
    found = runtime.records["chat-old"].discovered
    assert found is not None
    assert found.context == 101
    assert runtime.plan.paths.plan.stat().st_mode & 0o777 == 0o600

    assert dresser.dress(MIGRATION, back=True) == ""
    assert argv(runtime, "chat-old") == ("engine", "chat-old")
    assert read_plan(str(tmp_path)).models[0].context is None


async def test_a_replica_that_runs_is_left_as_it_is(tmp_path: Path) -> None:
    runtime = runtime_of(tmp_path, ReplicaStatus.READY, ReplicaStatus.STANDBY)
    dresser = Dresser(runtime, FAKE)
    dresser.keep(MIGRATION, await dresser.revised(WANTED))

    assert dresser.dress(MIGRATION) == ""
    assert argv(runtime, "chat-old") == ("engine", "chat-old")


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (FAKE, "no such word"),
        ((sys.executable, "-c", "import sys; sys.exit('x' * 9999)"), "x" * 500),
    ],
)
async def test_what_cannot_be_planned_is_an_error(tmp_path: Path, command: tuple[str, ...], error: str) -> None:
    dresser = Dresser(runtime_of(tmp_path), command)
    found = await dresser.revised(replace(WANTED, set=("args=none",)))

    assert (found.error, found.wanted) == (error, replace(WANTED, set=("args=none",)))


async def test_a_planner_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth.control.migrating.dresser.LONGEST_S", 0.5)
    hanging = "import os, sys, time; open(sys.argv[1] + '/pid', 'w').write(str(os.getpid())); time.sleep(600)"
    found = await Dresser(runtime_of(tmp_path), (sys.executable, "-S", "-c", hanging)).revised(WANTED)

    assert found.error == "this took longer than 0.5 s"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text() or 1 << 22), 0)


async def test_a_plan_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    dresser = Dresser(runtime_of(tmp_path), FAKE)
    assert "No such file" in dresser.dress(MIGRATION)
    dress_path(read_plan(str(tmp_path)).paths, "chat-old").write_text("{")
    assert dresser.dress(MIGRATION)


def test_a_revision_holds_what_has_changed(tmp_path: Path) -> None:
    runtime = runtime_of(tmp_path)
    migrator = Migrator.__new__(Migrator)
    migrator._runtime, migrator.dresser = runtime, Dresser(runtime, FAKE)
    operation = Operation(id="7", action=Action.MIGRATE, model="chat", created_at=1.0, migration=MIGRATION)
    after = Revised(
        changes=MIGRATION.changes, says={"engines": "old, new", "args": "dressed"}, engines=("old dressed", "new"),
        route=runtime.plan.models[0], replicas=runtime.plan.replicas,
    )  # fmt: skip
    migrator.keep(operation, after)
    one = migrator.revision(operation, MIGRATION, RevisionState.PROMOTED)
    plain = migrator.revision(operation, replace(MIGRATION, revised=False, changes=()), RevisionState.PROMOTED)

    assert (one.v, one.number, one.changes, one.order) == (2, 2, MIGRATION.changes, (0, 1))
    assert one.says == {"engines": "old dressed, new", "args": "dressed"}
    assert (plain.v, plain.changes, plain.says) == (1, (), {"engines": "old, new"})


async def test_a_migration_whose_plan_cannot_be_written_is_rolled_back(tmp_path: Path) -> None:
    runtime = runtime_of(tmp_path)
    operation = Operation(id="7", action=Action.MIGRATE, model="chat", created_at=1.0, migration=MIGRATION)
    runtime.operations.resume(Kept(operations=(operation,)))
    async with asyncio.TaskGroup() as tasks, Prober() as prober:
        migrator = Migrator(runtime, Examination(prober, Canary(prober, 1), 1), tasks, FAKE)
        revised = await migrator.dresser.revised(WANTED)
        dressed = migrator._dressed(MIGRATION, 5.0)
        folder = dress_path(runtime.plan.paths, "chat-old")
        folder.mkdir()
        migrator.keep(operation, revised)
    (kept,) = runtime.operations.kept.operations

    assert kept.migration is not None
    for found in (dressed, kept.migration):
        assert (found.phase, found.dressed) == (Phase.ROLLING_BACK, False)
        assert found.reason.startswith("the plan cannot be written: ")

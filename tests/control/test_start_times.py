"""What is learned of starts and wakes, and kept for the next Berth."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.decisions.records import Record
from berth.control.logs.load_progress import Tracker, advance
from berth.control.start_times import StartTimes, how
from berth.plan import Launch, Sleep, SleepCall
from berth.records import starts
from berth.records.starts import How
from berth.state import ReplicaStatus
from tests.control.harness import appliance, engine, plan_of
from tests.fakes.plans import make_replica

S = ReplicaStatus
SLEEP = Sleep(sleep_path="/sleep", wake_path="/wake", reload=(SleepCall(path="/reload"),))
RECORD = Record(
    replica=replace(make_replica("r", launch=Launch(argv=("x",))), sleep=SLEEP), status=S.STARTING, since=100
)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (RECORD, S.READY, How.COLD),
        (RECORD, S.FALLING_ASLEEP, How.COLD),
        (replace(RECORD, status=S.WAKING, wakes=How.WAKE_1), S.READY, How.WAKE_1),
        (replace(RECORD, status=S.WAKING), S.READY, How.WAKE_2),
        (RECORD, S.BACKOFF, None),
        (replace(RECORD, status=S.WAKING), S.STOPPING, None),
        (replace(RECORD, status=S.DRAINING), S.READY, None),
        (replace(RECORD, replica=make_replica("r", launch=None)), S.READY, None),
    ],
)
def test_learns_how_long_it_took(tmp_path: Path, before: Record, after: ReplicaStatus, kind: How | None) -> None:
    times = StartTimes(str(tmp_path))
    assert times.learned(before, replace(before, status=after, phases={"load": 7.0}), 107.5) is (kind is not None)
    times.save()

    known = StartTimes(str(tmp_path))
    if kind is None:
        assert known.expected_s(before) is None
    else:
        assert known.expected_s(before) == 7.5
        phases = starts.read(str(tmp_path)).phases(starts.kind_of(before.replica, kind))
        assert phases == ({"load": 7.0} if kind is How.COLD else {})


@pytest.mark.parametrize(
    ("phases", "kind"),
    [
        ({"process": 0.3, "fork": 2.0, "load": 1.0}, How.FORKED),
        ({"process": 0.3, "fork": 2.0, "import": 9.0}, How.COLD),  # the fork was of no use
        ({"process": 0.3, "import": 9.0}, How.COLD),
    ],
)
def test_a_start_by_a_fork_is_another_kind(tmp_path: Path, phases: dict[str, float], kind: How) -> None:
    times = StartTimes(str(tmp_path))
    slow = replace(RECORD, phases={"process": 20.0})
    assert times.learned(RECORD, replace(slow, status=S.READY), 120.0)
    assert times.expected_s(replace(RECORD, status=S.UNLOADED, phases={"fork": 1.0})) == 20.0  # until one is known
    assert times.learned(RECORD, replace(RECORD, status=S.READY, phases=phases), 104.0)
    loaded = replace(RECORD, status=S.UNLOADED, phases=phases)
    assert times.expected_s(loaded) == (4.0 if kind is How.FORKED else 12.0)
    times.save()
    assert list(starts.read(str(tmp_path)).phases(starts.kind_of(RECORD.replica, kind))) == list(phases)
    forking = replace(RECORD, tracker=advance(Tracker(), "berth exec: forked from the preloaded vllm, as process 7"))
    assert how(forking) is How.FORKED


def test_what_sleeps_wakes_and_all_others_start() -> None:
    asleep = replace(RECORD, status=S.ASLEEP)
    assert [how(asleep), how(replace(asleep, wakes=How.WAKE_1)), how(RECORD)] == [How.WAKE_2, How.WAKE_1, How.COLD]
    plain = replace(asleep, replica=replace(asleep.replica, sleep=replace(SLEEP, reload=())))
    assert how(plain) is How.WAKE_1


def test_impossible_time_is_not_kept(tmp_path: Path) -> None:
    times = StartTimes(str(tmp_path))
    assert not times.learned(RECORD, replace(RECORD, status=S.READY), 50)
    assert times.expected_s(RECORD) is None


def test_knows_each_kind_of_start_of_what_can_sleep(tmp_path: Path) -> None:
    times, plain = StartTimes(str(tmp_path)), replace(RECORD, replica=make_replica("plain", launch=Launch(argv=("x",))))
    assert times.of_sleepers([RECORD, plain]) == {"r": {}}
    for before in (RECORD, plain, replace(RECORD, status=S.WAKING, wakes=How.WAKE_2)):
        assert times.learned(before, replace(before, status=S.READY), 103.0)
    assert times.of_sleepers([RECORD, plain]) == {"r": {How.COLD: 3.0, How.WAKE_2: 3.0}}


def test_bad_file_is_ignored_and_one_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    starts.path(str(tmp_path)).mkdir(parents=True)
    times = StartTimes(str(tmp_path))
    assert times.learned(RECORD, replace(RECORD, status=S.READY), 107.5)
    times.save()
    assert times.expected_s(RECORD) == 7.5


@pytest.mark.anyio
async def test_the_next_control_expects_what_the_last_start_took(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "run", engine(tmp_path / "run", "a"))
    plan = replace(plan, paths=replace(plan.paths, data_dir=str(tmp_path / "data")))
    async with appliance(plan) as box:
        async with box.control():
            states = await box.until(lambda states: states["a"].expected_s is not None)
            kept = starts.path(plan.paths.data_dir)
            async with asyncio.timeout(60):
                while not kept.exists():  # noqa: ASYNC110 - a file
                    await asyncio.sleep(0.02)
        assert states["a"].status is S.READY
    assert (
        StartTimes(plan.paths.data_dir).expected_s(Record(replica=plan.replicas[0], status=S.UNLOADED, since=0))
        == states["a"].expected_s
    )

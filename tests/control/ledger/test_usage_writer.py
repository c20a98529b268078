"""Control writes down what was used, once and completely, whatever happens to it and to the disk."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.ledger.key_watch import write_keys
from berth.control.ledger.usage_writer import UsageWriter
from berth.ipc import key_counters
from berth.ipc.key_counters import CHARGED, KEY_WIDTH, Shape
from berth.plan import ApiKey, Keys, Plan, read_keys
from berth.records import usage
from tests.records.test_usage import NOW, plan_in, use

pytestmark = pytest.mark.anyio


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = plan_in(tmp_path)
    write_keys(plan, Keys(api_keys=(ApiKey(name="alice", slot=1, tokens_per_day=100), ApiKey(name="bob", slot=2))))
    key_counters.reserve(plan.paths.key_counters, Shape.of(plan))
    return plan


def sums(plan: Plan) -> list[tuple[str, int, int]]:
    rows = usage.summary(usage.lines(usage.path(plan, usage.month_of(NOW))), "key")
    return [(row["key"], row["requests"], row["completion"]) for row in rows]


def file_of(plan: Plan) -> Path:
    return usage.path(plan, usage.month_of(NOW))


async def test_writes_only_what_is_new(plan: Plan) -> None:
    writer = UsageWriter(plan, lambda: NOW + 5)
    for _ in range(2):
        use(plan, 1, 0, 10, 5)
        await writer.flush()
    await writer.flush()

    assert sums(plan) == [("alice", 2, 10)]
    assert len(file_of(plan).read_bytes().splitlines()) == 2
    assert file_of(plan).stat().st_mode & 0o777 == 0o600


async def test_another_control_continues(plan: Plan) -> None:
    use(plan, 1, 0, 10, 5)
    await UsageWriter(plan, lambda: NOW + 5).flush()
    use(plan, 1, 0, 10, 5)
    use(plan, 2, 1, 1, 1)
    await UsageWriter(plan, lambda: NOW + 65).flush()

    assert sums(plan) == [("alice", 2, 10), ("bob", 1, 1)]


async def test_a_control_that_was_killed_before_it_noted_what_it_had_written(plan: Plan) -> None:
    use(plan, 1, 0, 10, 5)
    await UsageWriter(plan, lambda: NOW + 5).flush()
    noted = plan.paths.usage_notes.read_bytes()
    use(plan, 1, 0, 10, 5)
    await UsageWriter(plan, lambda: NOW + 65).flush()
    plan.paths.usage_notes.write_bytes(noted)
    use(plan, 1, 0, 10, 5)
    await UsageWriter(plan, lambda: NOW + 70).flush()

    assert sums(plan) == [("alice", 3, 15)]


async def test_a_full_disk_is_one_warning_and_loses_nothing(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    writer = UsageWriter(plan, lambda: NOW + 5)
    folder = file_of(plan).parent
    folder.parent.mkdir()
    folder.write_text("no folder")
    for _ in range(3):
        use(plan, 1, 0, 10, 5)
        await writer.flush()
    assert [record.message for record in caplog.records] == ["usage not written, counting in memory"]
    folder.unlink()
    await writer.flush()

    assert sums(plan) == [("alice", 3, 15)]


def test_a_torn_line_stays_alone(tmp_path: Path) -> None:
    file = tmp_path / "folder/usage.jsonl"
    usage.append(file, b'{"torn')
    usage.append(file, b"whole\n")
    usage.append(file, b"another\n")

    assert file.read_bytes() == b'{"torn\nwhole\nanother\n'


async def test_budgets_count_from_midnight_also_after_a_restart(plan: Plan) -> None:
    """Of this day and this month: what an earlier start of Berth wrote down, and what this one did."""
    moment = [NOW + 36 * 3600.0]  # the second day of the month
    earlier = replace(plan, created=1)
    boot = usage.boot_of(earlier)
    before = usage.line_of(int(NOW + 60), boot, 1, ("alice", "m"), key_counters.Use(prompt=30))
    today = usage.line_of(int(moment[0] - 60), boot, 2, ("alice", "m"), key_counters.Use(prompt=8))
    usage.append(usage.path(plan, usage.month_of(NOW + 60)), before + today)
    row = key_counters.rows(plan.paths.key_counters, Shape.of(plan))[0]
    use(plan, 1, 0, 10, 5)
    row[KEY_WIDTH + CHARGED] = 15
    writer = UsageWriter(plan, lambda: moment[0])
    await writer.flush()
    await writer.publish_budgets()

    alice, bob = read_keys(plan.paths.run_dir).api_keys
    assert row[KEY_WIDTH + CHARGED] - alice.day_from == 15 + 8
    assert row[KEY_WIDTH + CHARGED] - alice.month_from == 15 + 8 + 30
    assert (bob.day_from, bob.month_from) == (0, 0)
    moment[0] += 86_400
    await writer.publish_budgets()
    alice, _ = read_keys(plan.paths.run_dir).api_keys
    assert row[KEY_WIDTH + CHARGED] - alice.day_from == 0
    assert row[KEY_WIDTH + CHARGED] - alice.month_from == 15 + 8 + 30


async def test_budgets_are_published_at_the_start_and_when_keys_change(plan: Plan) -> None:
    line = usage.line_of(int(NOW + 60), "earlier", 1, ("alice", "m"), key_counters.Use(prompt=30))
    usage.append(file_of(plan), line)
    writer = UsageWriter(plan, lambda: NOW + 90)
    running = asyncio.create_task(writer.run())
    async with asyncio.timeout(10):
        while read_keys(plan.paths.run_dir).api_keys[0].day_from != -30:  # noqa: ASYNC110 - it is in a file
            await asyncio.sleep(0.01)
        write_keys(plan, Keys(api_keys=(ApiKey(name="alice", slot=1, tokens_per_month=9),)))
        writer.keys_changed.set()
        while read_keys(plan.paths.run_dir).api_keys[0].month_from != -30:  # noqa: ASYNC110 - it is in a file
            await asyncio.sleep(0.01)
    running.cancel()


async def test_budgets_stay_what_they_are_where_a_file_cannot_be_read(
    plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    writer = UsageWriter(plan, lambda: NOW + 5)
    file_of(plan).mkdir(parents=True)
    await writer.publish_budgets()
    plan.paths.keys.unlink()
    await writer.publish_budgets()

    assert [record.message for record in caplog.records] == [
        "usage not read, budgets count from the start of Berth",
        "budgets not published",
    ]


async def test_without_budgets_nothing_is_published(plan: Plan) -> None:
    write_keys(plan, Keys(api_keys=(ApiKey(name="bob", slot=2),)))
    before = plan.paths.keys.stat()
    await UsageWriter(plan, lambda: NOW + 5).publish_budgets()

    assert plan.paths.keys.stat().st_ino == before.st_ino

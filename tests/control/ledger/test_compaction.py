"""A month that is over takes less space, and says the same as before, whenever control is killed."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.control.ledger import compaction
from berth.control.ledger.compaction import HOURS, by_hour, compact
from berth.control.ledger.key_watch import write_keys
from berth.control.ledger.usage_writer import UsageWriter
from berth.ipc import key_counters
from berth.ipc.key_counters import Shape, Use
from berth.plan import Keys
from berth.records import usage
from tests.records.test_usage import NOW, line, plan_in, use

OCTOBER = NOW - 45 * 86_400  # the middle of that month
VIEWS = ("", "key", "model", "day")


def shown(data: bytes) -> list[str]:
    """As CSV, by everything."""
    return [usage.as_text(usage.summary(usage.parsed(data), by), "csv") for by in VIEWS]


LINES = st.builds(
    lambda number, key, model, minute, prompt, broken: (
        line(number, key, model, OCTOBER + 60 * minute, prompt=prompt, cached=prompt // 2, completion=3)[
            : -5 if broken else None
        ]
        + b"\n" * broken
    ),
    st.integers(0, 9),  # some are written again
    st.sampled_from(("alice", "bob")),
    st.sampled_from(("m", "n")),
    st.integers(0, 4000),
    st.integers(0, 100),
    st.sampled_from((False, False, False, True)),
)


@settings(max_examples=60)
@given(st.lists(LINES, max_size=40), st.sampled_from(("UTC", "Asia/Kolkata", "Europe/Berlin", "America/St_Johns")))
def test_every_view_is_the_same_after_it(lines: list[bytes], zone: str) -> None:
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        data = b"".join(lines)
        hours = by_hour(usage.parsed(data))
        assert shown(hours) == shown(data)
        assert by_hour(usage.parsed(hours)) == hours
        assert len(hours.splitlines()) <= max(len(usage.parsed(data)), 0)
    finally:
        os.environ.pop("TZ")
        os.environ.update({"TZ": before} if before else {})
        time.tzset()


def month(folder: Path, name: str = "2026-10", lines: int = 300) -> Path:
    file = folder / f"{name}.jsonl"
    usage.append(file, b"".join(line(number, moment=OCTOBER + 20 * number, prompt=number) for number in range(lines)))
    return file


def test_months_that_are_over_are_rewritten_once(tmp_path: Path) -> None:
    october, november, other = month(tmp_path), month(tmp_path, "2026-11"), tmp_path / "notes.jsonl"
    other.write_bytes(b"x")
    views, whole = shown(october.read_bytes()), november.read_bytes()

    assert compact(tmp_path, "2026-11", "a") == ["2026-10"]
    assert compact(tmp_path, "2026-11", "a") == []

    assert shown(october.read_bytes()) == views
    assert {one.boot for one in usage.lines(october)} == {HOURS}
    assert len(october.read_bytes()) < 10 * 130  # 100 minutes of one client
    assert october.stat().st_mode & 0o777 == 0o600
    assert (november.read_bytes(), other.read_bytes()) == (whole, b"x")
    usage.append(october, line(1, moment=OCTOBER, prompt=7))  # the clock was wrong
    views = shown(october.read_bytes())
    assert compact(tmp_path, "2026-11", "a") == ["2026-10"]
    assert shown(october.read_bytes()) == views


def test_what_a_newer_berth_wrote_is_left_alone(tmp_path: Path) -> None:
    october = month(tmp_path)
    usage.append(october, line(999).replace(b'"t"', b'"v":2,"t"') + b"torn")
    data = october.read_bytes()
    assert compact(tmp_path, "2026-11", "a") == []
    assert october.read_bytes() == data


class KilledError(BaseException):
    """Nothing of the process runs any more."""


CALLS = ("open", "write", "fsync", "close", "replace")


@pytest.mark.parametrize("moment", range(12))
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_call_it_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int, *, after: bool
) -> None:
    october = month(tmp_path)
    views, left = shown(october.read_bytes()), moment

    def killing(call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1 and not after:
                raise KilledError
            result = call(*args, **options)
            if left == -1:
                raise KilledError
            return result

        return made

    with monkeypatch.context() as patched:
        for name in CALLS:
            patched.setattr(os, name, killing(getattr(os, name)))
        with suppress(KilledError):
            compact(tmp_path, "2026-11", "a")
    assert shown(october.read_bytes()) == views

    compact(tmp_path, "2026-11", "a")
    assert shown(october.read_bytes()) == views
    assert [file.name for file in tmp_path.iterdir()] == ["2026-10.jsonl"]
    assert {one.boot for one in usage.lines(october)} == {HOURS}


def test_a_file_that_grows_meanwhile_is_left_for_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    october = month(tmp_path)
    real = by_hour

    def late(lines: Any) -> bytes:
        usage.append(october, line(999, moment=OCTOBER, prompt=7))
        return real(lines)

    with monkeypatch.context() as patched:
        patched.setattr(compaction, "by_hour", late)
        assert compact(tmp_path, "2026-11", "a") == []
    views = shown(october.read_bytes())
    assert compact(tmp_path, "2026-11", "a") == ["2026-10"]
    assert shown(october.read_bytes()) == views


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    october = month(tmp_path)
    data, whole = october.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[:100]))
    with pytest.raises(OSError, match="only a part"):
        compact(tmp_path, "2026-11", "a")
    assert october.read_bytes() == data


@pytest.mark.anyio
async def test_control_compacts_when_a_month_has_been_over_for_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_in(tmp_path)
    folder = usage.path(plan, "2026-10").parent
    november = month(folder, "2026-11")
    moment = [NOW + 3600.0]  # the first hour of December, in UTC
    writer = UsageWriter(plan, lambda: moment[0])
    before = november.read_bytes()
    await writer.compact()
    assert november.read_bytes() == before
    moment[0] += 2 * 86_400
    with caplog.at_level("INFO"):
        await writer.compact()
        assert len(november.read_bytes()) < len(before)
        november.unlink()
        november.mkdir()
        await writer.compact()
    assert [record.message for record in caplog.records] == ["usage compacted", "usage not compacted"]


@pytest.mark.anyio
async def test_a_control_that_was_killed_at_the_turn_of_the_month_counts_nothing_twice(tmp_path: Path) -> None:
    """It had written into November, and not noted it; the next one writes into December."""
    plan = plan_in(tmp_path)
    write_keys(plan, Keys())
    key_counters.reserve(plan.paths.key_counters, Shape.of(plan))
    use(plan, 0, 0, 10, 5)
    await UsageWriter(plan, lambda: NOW).flush()
    plan.paths.usage_notes.unlink()
    use(plan, 0, 0, 1, 1)
    use(plan, 0, 1, 1, 1)
    await UsageWriter(plan, lambda: NOW + 60).flush()

    of = {name: usage.summary(usage.lines(usage.path(plan, name)), "key") for name in ("2026-11", "2026-12")}
    assert [(name, rows[0]["requests"], rows[0]["prompt"]) for name, rows in of.items()] == [
        ("2026-11", 1, 10),
        ("2026-12", 2, 2),
    ]
    notes = usage.read_notes(plan).totals()
    assert notes["anonymous", "m"] == replace(Use(), requests=2, prompt=11, completion=6)

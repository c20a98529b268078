"""What is written down about clients, read back: repeats and broken lines change nothing."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.ipc import key_counters
from berth.ipc.key_counters import COMPLETION, PROMPT, SUCCEEDED, USE_WIDTH, Shape, Use
from berth.plan import ApiKey, Keys, Plan
from berth.processes import replace_file
from berth.records import usage
from tests.fakes.router import make_plan, replica

NOW = 1796083200.0  # 2026-12-01 00:00 UTC


def plan_in(folder: Path) -> Plan:
    plan = make_plan(str(folder), [replica("m-a", "http://127.0.0.1:1"), replica("n-a", "http://127.0.0.1:1")])
    limits = replace(plan.limits, key_slots=4)
    return replace(plan, paths=replace(plan.paths, data_dir=str(folder)), limits=limits)


def use(plan: Plan, slot: int, route: int, prompt: int, completion: int) -> None:
    """As a worker counts a request."""
    shape = Shape.of(plan)
    row = key_counters.rows(plan.paths.key_counters, shape)[0]
    at = shape.uses + (slot * shape.routes + route) * USE_WIDTH
    for place, number in ((SUCCEEDED, 1), (PROMPT, prompt), (COMPLETION, completion)):
        row[at + place] += number


def line(number: int, key: str = "alice", model: str = "m", moment: float = NOW, **fields: int) -> bytes:
    return usage.line_of(int(moment), "b", number, (key, model), Use(requests=1, **fields))


def test_the_last_of_repeated_lines_counts_and_broken_ones_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    whole = line(1, prompt=5) + line(2, prompt=7) + line(2, prompt=9) + line(2, "bob", completion=3)
    newer = line(4, prompt=100).replace(b'"t"', b'"v":2,"t"')
    file.write_bytes(line(1, prompt=1)[:-9] + b"\n" + whole + newer + b"\xff\n[]\n" + line(3, prompt=1)[:20])

    rows = usage.summary(usage.lines(file), "key")

    assert [(row["key"], row["requests"], row["prompt"], row["completion"]) for row in rows] == [
        ("alice", 2, 14, 0),
        ("bob", 1, 0, 3),
    ]
    assert usage.lines(tmp_path / "nothing") == []


@settings(max_examples=50)
@given(st.lists(st.integers(0, 3)), st.data())
def test_repeats_and_torn_ends_are_harmless(repeats: list[int], data: st.DataObject) -> None:
    """Each line may be there several times; the file may end at any byte."""
    lines = [line(number, prompt=1) for number in range(len(repeats))]
    text = b"".join(one * (1 + count) for one, count in zip(lines, repeats, strict=True))
    end = data.draw(st.integers(0, len(text)))
    complete = sum(text[:end].count(one) > 0 for one in lines)
    found = {one.n for one in usage.parsed(text[:end])}
    assert len(found) in {complete, complete + 1}  # a line without its end may be whole


@pytest.mark.parametrize(
    ("by", "first"),
    [
        ("key", {"key": "bob", "requests": 2}),
        ("model", {"model": "n", "requests": 1}),
        ("day", {"day": usage.day_of(NOW), "requests": 2}),
        ("", {"key": "bob", "model": "n", "requests": 1}),
    ],
)
def test_sums_by_one_thing_or_by_key_and_model(tmp_path: Path, by: str, first: dict[str, object]) -> None:
    file = tmp_path / "usage.jsonl"
    later = NOW + 86_400
    file.write_bytes(line(1, prompt=3) + line(1, "bob", completion=2) + line(2, "bob", "n", later, completion=20))

    rows = usage.summary(usage.lines(file), by)

    assert first.items() <= rows[0].items()
    assert sum(row["completion"] for row in rows) == 22
    table, document = usage.as_text(rows, "csv"), usage.as_text(rows, "json")
    assert list(csv.DictReader(table.splitlines())) == [{name: str(cell) for name, cell in row.items()} for row in rows]
    assert json.loads(document) == rows
    assert len(usage.as_text(rows, "").splitlines()) == len(rows) + 1
    assert usage.as_text([], "") == "Nothing was used."


def test_what_is_not_written_down_yet_is_added(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    keys = Keys(api_keys=(ApiKey(name="alice", slot=1),), retired={"gone": 2})
    replace_file(plan.paths.keys, keys.to_json())
    month = usage.month_of(NOW)
    assert usage.current(plan, month, now=NOW) == []
    key_counters.reserve(plan.paths.key_counters, Shape.of(plan))
    for slot, route in ((0, 0), (1, 1), (1, 1), (2, 0), (3, 0)):
        use(plan, slot, route, 10, 5)

    rows = usage.summary(usage.current(plan, month, now=NOW), "")

    assert {(row["key"], row["model"], row["requests"], row["prompt"], row["completion"]) for row in rows} == {
        ("anonymous", "m", 1, 10, 5),
        ("alice", "n", 2, 20, 10),
        ("gone", "m", 1, 10, 5),
    }
    assert usage.current(plan, "2020-01", now=NOW) == []


def test_a_cached_token_counts_as_a_tenth() -> None:
    found = usage.parsed(line(1, prompt=100, cached=100, completion=5) + line(2, moment=NOW - 9, prompt=1))
    assert usage.charged(found) == {"alice": pytest.approx(16)}
    assert usage.charged(found, NOW) == {"alice": pytest.approx(15)}


def test_what_is_written_but_not_noted_counts_once(tmp_path: Path) -> None:
    """Control was killed in between, or is just writing."""
    plan = plan_in(tmp_path)
    key_counters.reserve(plan.paths.key_counters, Shape.of(plan))
    use(plan, 0, 0, 10, 5)
    file = usage.path(plan, usage.month_of(NOW))
    file.parent.mkdir(parents=True)
    file.write_bytes(usage.line_of(int(NOW), usage.boot_of(plan), 1, ("anonymous", "m"), Use(requests=1, prompt=10)))
    assert usage.current(plan, usage.month_of(NOW), now=NOW) == []  # without keys.json no one's name is known
    replace_file(plan.paths.keys, Keys().to_json())

    (row,) = usage.summary(usage.current(plan, usage.month_of(NOW), now=NOW), "key")

    assert (row["requests"], row["prompt"], row["completion"]) == (1, 10, 5)


def test_what_a_killed_appliance_had_not_written_is_written_once(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    replace_file(plan.paths.keys, Keys(api_keys=(ApiKey(name="alice", slot=1),)).to_json())
    use(plan, 1, 0, 5, 7)
    for _ in range(2):
        usage.write_rest(plan)
    use(plan, 1, 0, 50, 70)
    plan.paths.usage_notes.unlink()  # it was killed between the line and its note
    usage.write_rest(plan)

    (file,) = Path(plan.paths.data_dir, "berth", "usage").iterdir()
    assert [(one.n, one.key, one.prompt, one.out) for one in usage.lines(file)] == [
        (1, "alice", 5, 7),
        (2, "alice", 50, 70),
    ]

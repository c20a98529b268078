"""What routers report of both sides of a canary is counted once."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.migrating.evidence import Evidence, is_slow, timed
from berth.ipc import journal, traffic
from berth.ipc.journal import NO_TRACE, Record
from berth.ipc.migration import Counts, How, Migration, Options, Phase
from berth.ipc.traffic import TrafficReport
from berth.plan import Plan
from tests.fakes.plans import make_plan, make_replica

MIGRATION = Migration(
    options=Options(to="b"),
    how=How.BOTH,
    candidate="b",
    stable="a",
    before=("a", "b"),
    after=("b", "a"),
    revision=2,
    phase=Phase.CANARY,
    since=0.0,
)
RECORD = Record(
    row=0,
    sequence=1,
    start=100.0,
    queue_s=0.0,
    first_token_s=0.2,
    duration_s=1.0,
    prompt_tokens=5,
    completion_tokens=41,
    cached_tokens=0,
    frames=41,
    moved_at_token=0,
    status=200,
    attempts=1,
    flags=("stream",),
    api="openai",
    operation="chat",
    phase="over",
    model="chat",
    key="anonymous",
    replica="b",
    previous_replica="",
    rule="",
    trace=NO_TRACE,
    request_id="1",
    error_code="",
)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    made = make_plan(str(tmp_path), make_replica("a", launch=None), make_replica("b", launch=None))
    journal.reserve(made.paths.journal, 2)
    traffic.reserve(made.paths.traffic, 2, 1, 2)
    return made


@pytest.fixture
def evidence(plan: Plan) -> Iterator[Evidence]:
    made = Evidence(plan)
    yield made
    made.close()


def report(plan: Plan, row: int, attempts: tuple[int, int], failures: tuple[int, int], unfit: tuple[int, int]) -> None:
    worker = TrafficReport(plan.paths.traffic, row, 2, 1)
    worker.write(1, 1, 0, (0, 0, *attempts, 0, *failures, *unfit))
    worker.close()


def test_only_what_is_new_is_counted(plan: Plan, evidence: Evidence) -> None:
    report(plan, 0, (50, 3), (1, 2), (0, 0))
    (first,) = evidence.counted([MIGRATION])
    report(plan, 0, (60, 8), (1, 4), (0, 1))
    report(plan, 1, (5, 1), (0, 0), (0, 0))
    (second,) = evidence.counted([first])
    (third,) = evidence.counted([second])

    assert (first.own, first.other, first.seen) == (Counts(), Counts(), (3, 2, 0, 50, 1, 0))
    assert (second.own, second.other) == (Counts(attempts=6, failures=2, unfit=1), Counts(attempts=15))
    assert third == second


def test_other_phases_count_nothing(plan: Plan, evidence: Evidence) -> None:
    early = replace(MIGRATION, phase=Phase.CHECKING)
    assert evidence.counted([early]) == [early]
    assert evidence.counted([]) == []
    plan.paths.traffic.unlink()
    assert evidence.counted([MIGRATION]) == [MIGRATION]


def test_times_and_lengths_are_those_of_first_attempts() -> None:
    records = [
        RECORD,
        replace(RECORD, first_token_s=3.0, duration_s=4.0),
        replace(RECORD, completion_tokens=0),
        replace(RECORD, replica="a"),
        replace(RECORD, attempts=2),
        replace(RECORD, status=500),
        replace(RECORD, operation="embedding"),
    ]

    assert timed(Counts(), "b", records, Options()) == Counts(
        timed=3, slow=1, answers=3, empty=1, tokens=82, tokens_squared=2 * 41 * 41
    )


@pytest.mark.parametrize(
    ("changed", "slow"),
    [
        ({}, False),
        ({"first_token_s": 1.5, "duration_s": 2.0}, True),
        ({"first_token_s": 1.5, "duration_s": 2.0, "queue_s": 1.0}, False),
        ({"duration_s": 5.0}, True),
        ({"first_token_s": None, "duration_s": 3.0}, False),
        ({"first_token_s": None, "duration_s": 3.2}, True),
        ({"completion_tokens": 0}, False),
    ],
)
def test_slow_is_a_late_first_token_or_slow_ones(changed: dict[str, float], slow: bool) -> None:
    assert is_slow(replace(RECORD, **changed), Options()) == slow  # type: ignore[arg-type] # any field


def test_the_recent_load_is_that_of_the_last_minute(evidence: Evidence) -> None:
    assert evidence.recent("chat", 1000.0) == (0.0, 0.0)


class Finished:
    """A journal with these requests."""

    def __init__(self, *records: Record) -> None:
        self._records = list(records)

    def finished(self) -> list[Record]:
        return self._records

    def close(self) -> None: ...


def test_what_is_usual_is_how_many_of_the_last_answers_were_slow(evidence: Evidence) -> None:
    slow, old = replace(RECORD, duration_s=5.0), replace(RECORD, start=RECORD.start - 900)
    others = replace(RECORD, model="other"), replace(slow, status=500), replace(slow, attempts=2)
    evidence.close()
    evidence._reader = Finished(RECORD, slow, slow, old, *others)  # type: ignore[assignment] # as much of it as is read

    assert evidence.usual(RECORD.model, Options(), RECORD.start + 300) == Counts(timed=3, slow=2)

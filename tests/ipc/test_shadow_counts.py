"""The file of the shadows' counts, and what the counts mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from berth.ipc import shadow_counts
from berth.ipc.shadow import CELLS, FAILURES, PLACES, WIDTH, Mirror, Result, Skip, less, on_its_way
from berth.ipc.shadow_results import of_mirror, results
from berth.plan import Plan
from berth.router.exchange.outcomes import Outcome
from tests.fakes.plans import make_plan, make_replica


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(str(tmp_path), make_replica(launch=None))


@contextmanager
def mapped(plan: Plan) -> "Iterator[list[memoryview[float]]]":
    rows = shadow_counts.rows(plan)
    yield rows
    for row in rows:
        row.release()


def test_counts_are_sums_over_all_workers(plan: Plan) -> None:
    shadow_counts.reserve(plan)
    with mapped(plan) as rows:
        assert len(rows) == plan.listen.most_workers
        rows[0][PLACES["requests"]] = 3
        rows[1][PLACES["requests"]] = 4
        rows[1][PLACES["sum duration"]] = -0.25
    found = shadow_counts.read(plan)["chat"]
    assert (found[PLACES["requests"]], found[PLACES["sum duration"]], len(found)) == (7, -0.25, WIDTH)


def test_there_is_nothing_to_read_without_a_file(plan: Plan) -> None:
    assert shadow_counts.read(plan) == {}
    assert not plan.paths.shadow_counts.exists()
    shadow_counts.reserve(plan)
    plan.paths.shadow_counts.unlink()
    plan.paths.shadow_counts.mkdir()
    assert shadow_counts.read(plan) == {}


def test_what_a_dead_worker_was_about_to_compare_is_lost_and_says_so(plan: Plan) -> None:
    shadow_counts.reserve(plan)
    with mapped(plan) as rows:
        for name, count in {
            "requests": 9,
            "not_chosen": 3,
            "skipped busy": 1,
            "result same": 2,
            "failed cut": 5,
        }.items():
            rows[0][PLACES[name]] = count
        assert on_its_way(rows[0][:WIDTH]) == 3
        shadow_counts.lose(rows[0], 1)
        assert (on_its_way(rows[0][:WIDTH]), rows[0][PLACES[f"skipped {Skip.WORKER_LOST}"]]) == (0, 3)
        shadow_counts.lose(rows[0], 1)
        assert rows[0][PLACES[f"skipped {Skip.WORKER_LOST}"]] == 3


def test_cells_are_in_the_order_that_the_sum_depends_on() -> None:
    between = CELLS[PLACES["not_chosen"] + 1 : PLACES[f"failed {FAILURES[0]}"]]
    assert between == (*(f"skipped {one}" for one in Skip), *(f"result {one}" for one in Result))
    assert len(set(CELLS)) == WIDTH


def test_failures_are_those_of_attempts() -> None:
    others = {Outcome.OK, Outcome.UNSUPPORTED, Outcome.STOPPED, Outcome.PREEMPTED}
    assert set(FAILURES) == {one.value for one in Outcome if one not in others}


def test_counts_since_the_beginning() -> None:
    assert less((3.0, 5.0), (1.0, 5.0)) == (2.0, 0.0)
    assert less((3.0,), ()) == (3.0,)
    mirror = Mirror(id="1", model="m", replica="r", share=0.5, ends=100.0, before=(1.0,) * WIDTH)
    found = of_mirror(mirror, (3.0,) * WIDTH, 40.0)
    assert (found.requests, found.same, found.skipped["busy"], found.left_s) == (2, 2, 2, 60)


def test_results_of_nothing_claim_nothing() -> None:
    found = results("m", "r", "over", 0.1, ())
    assert (found.pairs, found.waiting, found.failures) == (0, 0, {})
    assert found.failure_rate is not None
    assert (found.failure_rate.share, found.failure_rate.low, found.failure_rate.high) == (None, 0.0, 1.0)
    assert {one.mean for one in found.means.values()} == {None}

"""The short form of `make migration-kills`: a kill in the middle of a migration leaves one engine that serves."""

from pathlib import Path

import pytest

from berth.ipc.migration import Phase
from berth.ipc.operations import OperationState
from tests.chaos.migration_kills import BEGINS, VICTIMS, Case, cases, run

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(180)]
DONE, FAILED = OperationState.DONE, OperationState.FAILED


@pytest.mark.parametrize(
    ("case", "state"),
    [
        (Case(way="both", phase=Phase.CHECKING, victim="control"), DONE),
        (Case(way="both", phase=Phase.SHADOWING, victim="control"), DONE),
        (Case(way="both", phase=Phase.PROMOTING, victim="control"), DONE),
        (Case(way="both", phase=Phase.SETTLING, victim="candidate"), FAILED),
        (Case(way="swap", phase=Phase.HOLDING, victim="control"), DONE),
        (Case(way="swap", phase=Phase.TRIAL, victim="candidate"), FAILED),
        (Case(way="swap", phase=Phase.ROLLING_BACK, victim="control", aborted=True), FAILED),
        (Case(way="place", phase=Phase.HOLDING, victim="control"), DONE),
        (Case(way="place", phase=Phase.CHECKING, victim="candidate"), FAILED),
    ],
    ids=str,
)
async def test_the_revision_on_the_disk_is_the_one_that_runs(case: Case, state: OperationState, tmp_path: Path) -> None:
    assert (await run(case, tmp_path)).state is state


def test_the_long_form_has_each_phase() -> None:
    found = cases()
    assert len({str(case) for case in found}) == len(found)
    assert len(found) == sum(len(VICTIMS[way]) * (len(phases) + 1) for way, phases in BEGINS.items()) == 59

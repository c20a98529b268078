"""The short form of `make migration-kills`: a kill in the middle of a migration leaves one engine that serves."""

from pathlib import Path

import pytest

from berth.ipc.migration import How, Phase
from berth.ipc.operations import OperationState
from tests.chaos.migration_kills import BEGINS, Case, cases, run

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(180)]
DONE, FAILED = OperationState.DONE, OperationState.FAILED


@pytest.mark.parametrize(
    ("case", "state"),
    [
        (Case(how=How.BOTH, phase=Phase.CHECKING, victim="control"), DONE),
        (Case(how=How.BOTH, phase=Phase.PROMOTING, victim="control"), DONE),
        (Case(how=How.BOTH, phase=Phase.SETTLING, victim="candidate"), FAILED),
        (Case(how=How.SWAP, phase=Phase.HOLDING, victim="control"), DONE),
        (Case(how=How.SWAP, phase=Phase.ROLLING_BACK, victim="control", aborted=True), FAILED),
    ],
    ids=str,
)
async def test_the_revision_on_the_disk_is_the_one_that_runs(case: Case, state: OperationState, tmp_path: Path) -> None:
    assert (await run(case, tmp_path)).state is state


def test_the_long_form_has_each_phase() -> None:
    found = cases()
    assert len({str(case) for case in found}) == len(found) == 3 * (sum(map(len, BEGINS.values())) + 2)

"""The router of the chaos tests and its simulated engines."""

from collections.abc import Iterator

import pytest

from tests.chaos import sim_router as stages
from tests.chaos.sim_router import SimRouter


@pytest.fixture(scope="module")
def shared_stage() -> Iterator[SimRouter]:
    with stages.sim_router() as made:
        yield made


@pytest.fixture
def sim_router(shared_stage: SimRouter) -> SimRouter:
    shared_stage.recover()
    return shared_stage

"""The stage of the chaos tests."""

from collections.abc import Iterator

import pytest

from tests.chaos import stage as stages
from tests.chaos.stage import Stage


@pytest.fixture(scope="module")
def shared_stage() -> Iterator[Stage]:
    with stages.stage() as made:
        yield made


@pytest.fixture
def stage(shared_stage: Stage) -> Stage:
    shared_stage.recover()
    return shared_stage

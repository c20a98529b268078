"""One router for all tests of this folder, in front of fake engines that each test scripts as it likes."""

import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.fakes.router import RouterProcess
from tests.fakes.router_fixture import RouterFixture, fixture_plan, publish_fixture
from tests.fakes.upstream import FakeUpstream


@pytest.fixture
def run_dir() -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="br-")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def shared_stage() -> Iterator[RouterFixture]:
    run_dir = tempfile.mkdtemp(prefix="br-")
    with FakeUpstream() as first, FakeUpstream() as second, FakeUpstream() as embedder, FakeUpstream() as strict:
        plan = fixture_plan(run_dir, first, second, embedder, strict)
        publish_fixture(plan)
        router = RouterProcess(plan)
        router.await_answer()
        yield RouterFixture(router=router, first=first, second=second, embedder=embedder, strict=strict)
        router.end()
    shutil.rmtree(run_dir)


@pytest.fixture
def router_fixture(shared_stage: RouterFixture) -> RouterFixture:
    """The shared router, its engines as if nothing had happened."""
    shared_stage.forget()
    return shared_stage

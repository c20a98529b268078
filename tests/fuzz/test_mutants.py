"""Mutated requests of every API through the real router, in a short form: `make fuzz` has more of them."""

from collections.abc import Iterator
from itertools import islice

import pytest

from tests.fakes.router import RouterProcess
from tests.fuzz.mutants import fuzzed_router, send_mutants
from tests.fuzz.mutation import requests
from tests.fuzz.requests import SMALLEST

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def router() -> Iterator[RouterProcess]:
    with fuzzed_router() as router:
        yield router


@pytest.mark.parametrize("seed", [1, 2])
def test_every_response_is_one_of_its_api(router: RouterProcess, seed: int) -> None:
    found = send_mutants(router, seed, 500)
    assert found.problems == []
    assert found.statuses[200] > 20
    assert found.statuses[400] > 100


def test_a_seed_makes_the_same_requests_of_every_path() -> None:
    first, second = (list(islice(requests(7, 500), 500)) for _ in range(2))
    assert first == second
    assert {path for path, _ in first} == set(SMALLEST)

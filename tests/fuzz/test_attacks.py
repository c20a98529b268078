"""The attacks in their short form. A shared machine pauses too, so that only a long pause is a failure here."""

from collections.abc import Iterator

import pytest

from tests.fuzz.attacks import ATTACKS, Target, target
from tests.fuzz.run import attack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def on() -> Iterator[Target]:
    with target() as on:
        yield on


@pytest.mark.parametrize("name", ATTACKS)
def test_router_stands_it(on: Target, name: str) -> None:
    line, found = attack(on, name, ATTACKS[name], ATTACKS[name].short, most_pause_s=3.0)
    assert found == [], line
    assert "Traceback" not in on.router.log

"""An engine whose bytes are wrong: the official client gets the exact text, or an exception."""

from typing import Any

import pytest

from tests.chaos.observation import Outcome, verdicts
from tests.chaos.sim_router import DIALECTS, SimRouter

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("dialect", DIALECTS)]

TEXT_OF_3 = "The night train"

BREAKS: tuple[dict[str, Any], ...] = (
    {"reset-before": True},
    {"reset-after": 5},
    {"close-after": 5},
    {"cut-after": 5},
    {"garbage-frame": 0},
    {"garbage-frame": 5},
    {"half-utf8": 5},
    {"truncated-chunk": 0},
    {"truncated-chunk": 5},
    {"null": True},
    {"error-frame": 0},
    {"error-frame": 5},
    {"status": 500},
    {"status": 503},
    {"status": 429},
)
HARMLESS: tuple[dict[str, Any], ...] = ({"slow-drip": "0.1ms"}, {"split": 7}, {"join": 4})


def name(fault: dict[str, Any]) -> str:
    ((kind, value),) = fault.items()
    return f"{kind}={value}"


@pytest.mark.parametrize("fault", BREAKS, ids=name)
def test_broken_response_is_continued_or_reported(sim_router: SimRouter, dialect: str, fault: dict[str, Any]) -> None:
    sim_router.engines[dialect].fails(fault)

    seen = sim_router.ask(f"pair-{dialect}", f"solo-{dialect}")

    assert verdicts(seen) == {f"pair-{dialect}": {Outcome.WHOLE}, f"solo-{dialect}": {Outcome.TOLD}}, seen


@pytest.mark.parametrize("fault", HARMLESS, ids=name)
def test_byte_borders_make_no_difference(sim_router: SimRouter, dialect: str, fault: dict[str, Any]) -> None:
    sim_router.engines[dialect].fails(fault)

    seen = sim_router.ask(f"pair-{dialect}", f"solo-{dialect}")

    assert {one.outcome() for one in seen} == {Outcome.WHOLE}, seen


def test_content_length_too_large_breaks_only_full_responses(sim_router: SimRouter, dialect: str) -> None:
    """A stream has said [DONE] by the time that its connection ends too soon."""
    sim_router.engines[dialect].fails({"wrong-content-length": 10})

    seen = sim_router.ask(f"pair-{dialect}", f"solo-{dialect}")

    assert verdicts(seen)[f"pair-{dialect}"] == {Outcome.WHOLE}, seen
    alone = {one.way.stream: one.outcome() for one in seen if one.model.startswith("solo")}
    assert alone == {True: Outcome.WHOLE, False: Outcome.TOLD}, seen


@pytest.mark.parametrize("fault", [{"hang-before": True}, {"stall-after": 1}], ids=name)
def test_silence_counts_as_a_failure(sim_router: SimRouter, dialect: str, fault: dict[str, Any]) -> None:
    """A whole answer may take a second more for each token that was asked for: here, 3."""
    sim_router.engines[dialect].fails(fault)

    seen = sim_router.ask(f"pair-{dialect}", f"solo-{dialect}", max_tokens=3)

    assert verdicts(seen, TEXT_OF_3, "length") == {
        f"pair-{dialect}": {Outcome.WHOLE},
        f"solo-{dialect}": {Outcome.TOLD},
    }, seen

"""An engine whose bytes are wrong: the official client gets the exact text, or an exception."""

from typing import Any

import pytest

from tests.chaos.stage import DIALECTS, Stage
from tests.chaos.witness import Verdict, verdicts

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
def test_what_breaks_an_answer_is_mended_by_the_other_engine_or_told(
    stage: Stage, dialect: str, fault: dict[str, Any]
) -> None:
    stage.engines[dialect].fails(fault)

    seen = stage.ask(f"pair-{dialect}", f"solo-{dialect}")

    assert verdicts(seen) == {f"pair-{dialect}": {Verdict.WHOLE}, f"solo-{dialect}": {Verdict.TOLD}}, seen


@pytest.mark.parametrize("fault", HARMLESS, ids=name)
def test_how_the_bytes_come_makes_no_difference(stage: Stage, dialect: str, fault: dict[str, Any]) -> None:
    stage.engines[dialect].fails(fault)

    seen = stage.ask(f"pair-{dialect}", f"solo-{dialect}")

    assert {one.verdict() for one in seen} == {Verdict.WHOLE}, seen


def test_of_a_length_that_is_too_large_only_whole_answers_suffer(stage: Stage, dialect: str) -> None:
    """A stream has said [DONE] by the time that its connection ends too soon."""
    stage.engines[dialect].fails({"wrong-content-length": 10})

    seen = stage.ask(f"pair-{dialect}", f"solo-{dialect}")

    assert verdicts(seen)[f"pair-{dialect}"] == {Verdict.WHOLE}, seen
    alone = {one.way.stream: one.verdict() for one in seen if one.model.startswith("solo")}
    assert alone == {True: Verdict.WHOLE, False: Verdict.TOLD}, seen


@pytest.mark.parametrize("fault", [{"hang-before": True}, {"stall-after": 1}], ids=name)
def test_silence_counts_as_a_break(stage: Stage, dialect: str, fault: dict[str, Any]) -> None:
    """A whole answer may take a second more for each token that was asked for: here, 3."""
    stage.engines[dialect].fails(fault)

    seen = stage.ask(f"pair-{dialect}", f"solo-{dialect}", max_tokens=3)

    assert verdicts(seen, TEXT_OF_3, "length") == {
        f"pair-{dialect}": {Verdict.WHOLE},
        f"solo-{dialect}": {Verdict.TOLD},
    }, seen

import math
from typing import Any

import pytest

from berth.sim.faults.active import NO_EFFECTS, Effects, Ending, EndingKind, Faults, set_from_json, set_from_text
from berth.sim.faults.table import FaultError


def taken(*texts: str) -> Effects:
    faults = Faults()
    for text in texts:
        set_from_text(faults, text)
    return faults.take()


@pytest.mark.parametrize(
    ("text", "effects"),
    [
        ("reset-before", Effects(reset=True)),
        ("status", Effects(status=503)),
        ("status=429", Effects(status=429)),
        ("null", Effects(null=True)),
        ("hang-before", Effects(hang_s=math.inf)),
        ("hang-before=2s", Effects(hang_s=2.0)),
        ("cut-after=4", Effects(ending=Ending(after_tokens=4, kind=EndingKind.CUT))),
        ("half-utf8", Effects(ending=Ending(after_tokens=0, kind=EndingKind.HALF_CHARACTER))),
        ("garbage-frame=1", Effects(garbage_after=1)),
        ("slow-drip=5ms", Effects(drip_s=0.005)),
        ("split=3", Effects(split_bytes=3)),
        ("join", Effects(join_frames=4)),
        ("wrong-content-length", Effects(missing_bytes=10)),
        ("unhealthy", NO_EFFECTS),
    ],
)
def test_each_fault_has_one_effect(text: str, effects: Effects) -> None:
    assert taken(text) == effects


def test_earliest_ending_wins() -> None:
    assert taken("reset-after=5", "stall-after=2").ending == Ending(after_tokens=2, kind=EndingKind.STALL)


def test_limited_fault_ends_after_its_requests() -> None:
    faults = Faults()
    set_from_text(faults, "null@2")
    assert [faults.take().null for _ in range(3)] == [True, True, False]
    assert faults.to_json() == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("explode", "unknown fault 'explode'; known: refuse, "),
        ("null=1", "takes no value, got '1'"),
        ("cut-after=soon", "fault cut-after='soon': expected a whole number"),
        ("slow-drip=soon", "expected a duration such as 20ms"),
        ("status=200", "must be at least 400"),
        ("null@", "expected a number of requests after @, for example null@1"),
        ("null@x", "expected a number of requests after @"),
        ("null@0", "must be at least 1"),
        ("unhealthy@2", "needs a fault of requests"),
    ],
)
def test_rejects_invalid_faults(text: str, message: str) -> None:
    with pytest.raises(FaultError, match=message.replace("@", ".")):
        set_from_text(Faults(), text)


def test_sets_and_clears_faults_by_json() -> None:
    faults = Faults()
    set_from_json(faults, {"status": 500, "null": True, "cut-after": {"value": 3, "requests": 2}, "hang-before": True})
    set_from_json(faults, {"null": False, "unhealthy": {}})
    assert faults.to_json() == {
        "status": {"value": 500.0, "requests_left": None},
        "cut-after": {"value": 3.0, "requests_left": 2},
        "hang-before": {"value": "forever", "requests_left": None},
        "unhealthy": {"value": 1.0, "requests_left": None},
    }
    faults.clear("status")
    assert faults.value("status") is None
    faults.clear()
    assert faults.to_json() == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["null"], "expected an object"),
        ({"never-ready": True}, "applies at the start only: use --fault never-ready"),
        ({"null": {"requests": "x"}}, "requests='x' is not a number"),
        ({"status": "a"}, "expected a whole number"),
        ({"nope": 1}, "unknown fault 'nope'"),
        ({"status": 1.5}, "expected a whole number"),
    ],
)
def test_rejects_invalid_json_changes(changes: Any, message: str) -> None:
    with pytest.raises(FaultError, match=message):
        set_from_json(Faults(), changes)


def test_the_first_of_several_endings_counts() -> None:
    effects = Effects.of({"cut-after": 5, "reset-after": 3, "status": 503})
    assert effects == Effects(ending=Ending(after_tokens=3, kind=EndingKind.RESET), status=503)


def test_countdown_ends_at_zero() -> None:
    faults = Faults()
    assert not faults.spend("exit-after")
    faults.set("exit-after", 2)
    assert [faults.spend("exit-after") for _ in range(2)] == [False, True]

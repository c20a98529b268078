"""How long a start still takes."""

import pytest

from berth.time_left import Usual, is_slow, left_s, words

USUAL = Usual(120.0, {"download": 50.0, "load": 30.0, "graphs": 20.0})  # and 20 s more until it is ready
NEVER = Usual(None, {})


@pytest.mark.parametrize(
    ("usual", "phase", "percent", "took_s", "expected"),
    [
        (USUAL, "download", 0.0, 3.0, 120.0),
        (USUAL, "download", 50.0, 500.0, 95.0),  # the disk is slow today: later phases are not
        (USUAL, "load", 50.0, 60.0, 55.0),
        (USUAL, "load", None, 60.0, 60.0),
        (USUAL, "load", None, 600.0, 40.0),
        (USUAL, "graphs", None, 95.0, 25.0),
        (USUAL, "graphs", None, 30.0, 40.0),  # nothing had to be downloaded
        (USUAL, "compile", None, 60.0, 60.0),  # which it had not before
        (USUAL, "", None, 20.0, 100.0),
        (USUAL, "compile", None, 130.0, None),
        (Usual(50.0, {"load": 50.0}), "load", None, 60.0, None),
        (NEVER, "download", 25.0, 30.0, 90.0),
        (NEVER, "download", 0.0, 30.0, None),
        (NEVER, "download", None, 30.0, None),
        (NEVER, "load", 50.0, 30.0, None),
    ],
)
def test_time_left(usual: Usual, phase: str, percent: float | None, took_s: float, expected: float | None) -> None:
    assert left_s(usual, phase, percent, took_s) == expected


@pytest.mark.parametrize(
    ("usual_s", "took_s", "slow"),
    [(None, 900.0, False), (100.0, 200.0, False), (100.0, 201.0, True), (10.0, 69.0, False), (10.0, 71.0, True)],
)
def test_slow_is_twice_as_long_and_a_minute(usual_s: float | None, took_s: float, slow: bool) -> None:
    assert is_slow(usual_s, took_s) is slow


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (170, "3 min"), (7500, "2 h 5 min")])
def test_words(seconds: float, text: str) -> None:
    assert words(seconds) == text

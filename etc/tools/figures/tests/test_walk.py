"""Walks, and what is counted of them."""

from etc.tools.figures.walk import Step, periods, usual

BEAT, POLL, FLUSH = (Step(path="a.py", function=name) for name in ("Heartbeat.beat", "poll", "flush"))


def test_periods_are_whole() -> None:
    walk = (POLL, BEAT, POLL, BEAT, POLL, FLUSH, BEAT, POLL, BEAT, FLUSH)
    assert periods(walk) == [(BEAT, POLL), (BEAT, POLL, FLUSH), (BEAT, POLL)]
    assert usual(periods(walk)) == (BEAT, POLL)


def test_without_two_beats_there_is_no_period() -> None:
    assert periods((POLL, BEAT, POLL)) == []

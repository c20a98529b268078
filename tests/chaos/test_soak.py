"""The soak, short; and that it sees what must not be."""

from dataclasses import replace

import pytest

from berth.sim.options import PARAGRAPH
from tests.chaos import report
from tests.chaos.fault_injection import turn
from tests.chaos.observation import WAYS, Observation, Outcome
from tests.chaos.process_usage import MORE_BYTES, MORE_FILES, ProcessUsage, growth
from tests.chaos.report import Soak
from tests.chaos.soak import Course, soak
from tests.chaos.soak_clients import Answer, answer, reason

LIGHT = ProcessUsage(pss_bytes=20 << 20, open_files=30)
WELL = Soak(
    seconds=10,
    answers=[Answer(model="pair", way=WAYS[0], outcome=Outcome.WHOLE, reason="", text="", took_s=1)],
    faults={"kill": 2},
    counters={("berth_fallbacks_total", ""): 3, ("berth_streams_broken_total", "engine"): 1},
    before={"control": LIGHT},
    after={"control": LIGHT},
)


def seen(text: str, finish: str | None = "stop", error: Exception | None = None) -> Observation:
    return Observation(model="pair", way=WAYS[0], text=text, finish=finish, error=error)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_short_soak_passes() -> None:
    done = soak(Course(seconds=25, every_s=3, clients=6), say=lambda _: None)

    assert report.wrongs(done) == [], report.text(done)
    assert sum(done.faults.values()) > 2
    saved = done.counters["berth_fallbacks_total", ""] + done.counters["berth_streams_continued_total", ""]
    assert saved > 0, report.text(done)


@pytest.mark.parametrize(
    ("one", "outcome"),
    [
        (seen(PARAGRAPH), Outcome.WHOLE),
        (seen(PARAGRAPH[:50], finish=None), Outcome.SILENT),
        (seen(PARAGRAPH[:50]), Outcome.SILENT),
        (seen(PARAGRAPH, finish=None), Outcome.SILENT),
        (seen("The day train"), Outcome.WRONG),
        (seen(PARAGRAPH + PARAGRAPH), Outcome.WRONG),
        (seen(PARAGRAPH[:50], error=ValueError()), Outcome.TOLD),
        (seen("The day train", error=ValueError()), Outcome.WRONG),
    ],
)
def test_classifies_responses(one: Observation, outcome: Outcome) -> None:
    assert one.outcome() is outcome
    kept = answer(one, 0.5)
    assert (kept.outcome, kept.is_honest, bool(kept.text)) == (
        outcome,
        outcome in {Outcome.WHOLE, Outcome.TOLD},
        outcome in {Outcome.SILENT, Outcome.WRONG},
    )


def test_finds_forbidden_outcomes() -> None:
    assert report.wrongs(WELL) == []
    short = replace(WELL.answers[0], outcome=Outcome.SILENT, text="The night")
    (line,) = report.wrongs(replace(WELL, answers=[*WELL.answers, short]))
    assert line == "silent: pair, chat streamed: ...'The night'"
    assert report.wrongs(replace(WELL, answers=[])) == ["no answer was whole"]


def test_finds_growth() -> None:
    fat = ProcessUsage(pss_bytes=LIGHT.pss_bytes + MORE_BYTES + 1, open_files=LIGHT.open_files)
    leaky = ProcessUsage(pss_bytes=LIGHT.pss_bytes, open_files=LIGHT.open_files + MORE_FILES + 1)
    before = {"a": LIGHT, "b": LIGHT, "c": LIGHT, "d": LIGHT}
    assert growth(before, {"a": LIGHT, "b": fat, "c": leaky}) == [
        "b has grown by 6.3 MB",
        "c has 11 more open files",
        "d is gone",
    ]


def test_report_lists_continued_and_failed_responses() -> None:
    told = replace(WELL.answers[0], outcome=Outcome.TOLD, reason="refused with 502 engine_failed")
    text = report.text(replace(WELL, answers=[*WELL.answers, told, told]))
    assert "10 s, done to engines: kill 2" in text
    assert "3 answers: 1 whole, 2 told, 0 silent, 0 wrong" in text
    assert "saved before the first byte: 3" in text
    assert "2 pair: refused with 502 engine_failed" in text
    assert "1 of the streams, since: engine" in text
    assert "NOT WELL" not in text


def test_sums_counters_over_models() -> None:
    metrics = (
        'berth_fallbacks_total{engine="sim",replica="a"} 2.0\nberth_fallbacks_total{engine="sim",replica="b"} 3.0\n'
        'berth_streams_broken_total{model="m",reason="seed"} 1.0\nberth_tokens_total{model="m",kind="prompt"} 9.0\n'
    )
    found = report.counters(metrics)
    assert found == {("berth_fallbacks_total", ""): 5, ("berth_streams_broken_total", "seed"): 1}
    assert report.difference(found, {("berth_fallbacks_total", ""): 4})["berth_fallbacks_total", ""] == 1


def test_injects_every_fault_into_every_engine() -> None:
    turns = [turn(number, ["a", "b"], [str, int, float]) for number in range(6)]
    assert len(set(turns)) == 6
    assert [name for name, _ in turns] == ["a", "b"] * 3


def test_reasons_are_short() -> None:
    assert reason(None) == ""
    assert reason(ValueError("no")) == "ValueError: no"

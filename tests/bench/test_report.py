"""Text, HTML and pictures of a result."""

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from berth.bench import page, report
from berth.bench.drawing import Chart, Mark, Series, svg, ticks
from berth.records.results import Difference, Likeness, Outcome, OwnCost, Quality
from tests.bench.results_of import broken, engine, result, standard


def test_text_has_the_figures_of_each_engine_side_by_side() -> None:
    lines = [" ".join(line.split()) for line in report.text(standard()).splitlines()]
    for expected in (
        "chat = Qwen/Qwen3-8B @ 9c925d6 NVIDIA H100, context 32768",
        "bench 12, 2026-11-30 00:53 UTC, 41 min, method 2, Berth 1.0",
        "vllm 1.0 sglang 1.0",
        "quality same 99.6% same 99.6%",
        "schemas, tools 5/5 5/5 5/5 5/5",
        "goodput req/s 10.01 at 1 at a time 11.51 at 1 at a time",
        "16 at a time: ttft p95 20.0 ms (<= 30.0) 17.4 ms (<= 26.1)",
        "cold start 90.0 s, 90.0 s 90.0 s, 90.0 s",
        "memory 70.0 GiB, 384000 KV tokens 70.0 GiB, 384000 KV tokens",
        "J per output token 0.450 at 1 at a time 0.391 at 1 at a time",
        "$ per M output tokens 0.69 at 1 at a time 0.60 at 1 at a time",
        "valid: every rule was kept",
    ):
        assert expected in lines, expected
    goodput = next(line for line in lines if line.startswith("chat-sglang goodput"))
    assert goodput == "chat-sglang goodput 1.150 (1.150-1.150) FASTER 6 windows, A/A 0.0%"
    assert "chosen: chat-sglang (1.15x (1.15-1.15) goodput of chat-vllm). `engines: auto` uses it." in lines


def test_own_cost_is_said_with_its_interval_or_why_it_is_not_known() -> None:
    cost, none = Difference(mean=0.0006, low=0.0005, high=0.0007), Difference(mean=1e-6, low=-1e-5, high=2e-5)
    known = engine("chat-vllm", 1.0, own_cost=OwnCost(pairs=40, ttft=cost, tpot=none, e2e=cost))
    failed = engine("chat-sglang", 1.0, own_cost=OwnCost(problem="the router speaks TLS"))
    found = result(known, failed, engine("chat-trtllm", 1.0))
    text = report.text(found)
    assert (
        "  chat-vllm: first token +0.600 ms (+0.500 to +0.700 ms), "
        "time per token not measurable (-0.010 to +0.020 ms), total +0.600 ms (+0.500 to +0.700 ms); "
        "40 pairs, 1 at a time\n"
    ) in text
    assert "  chat-sglang: not measured: the router speaks TLS\n" in text
    assert "Berth&#x27;s own cost: through the router" in page.html(found)
    assert "F13" not in page.unknown(found)
    assert page.unknown(result(failed))["F13"] == "what the router adds was not measured"
    assert "own cost" not in report.text(standard())


def test_what_is_invalid_failed_or_unknown_is_said() -> None:
    slow = broken(engine("chat-vllm", 1.0), "F7: 86% of the prompt tokens came from a warm cache")
    dead = engine("chat-trtllm", 1.0, starts=(), quality=None, problem="it does not start: out of memory")
    unknown = engine("chat-sglang", 1.0, quality=Quality(likeness=Likeness.UNKNOWN, problems=("schema: x",)))
    text = report.text(result(slow, unknown, dead, quick=True))
    for expected in (
        "INVALID: 1 broken rule",
        "F7: 86%",
        "not measured",
        "out of memory",
        "quality unknown",
        "schema: x",
    ):
        assert expected in text
    assert "`engines: auto`: chat-trtllm: it does not start: out of memory; a quick run decides nothing" in text


def test_one_engine_is_compared_with_nothing() -> None:
    alone = result(engine("chat-vllm", 1.0, quality=None))
    assert "nothing to compare: one engine only" in report.text(alone)
    assert alone.chosen == "chat-vllm"
    dead = result(engine("chat-vllm", 1.0, problem="x", starts=(), quality=None))
    assert (dead.chosen, report.points(dead)) == ("", [])


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "chosen chat-sglang"),
        ({"chosen": ""}, "nothing chosen"),
        ({"chosen": "", "broken": ("F11: x",)}, "invalid"),
    ],
)
def test_list_has_a_line_for_each(fields: dict[str, object], state: str) -> None:
    line = report.line(replace(standard(), **fields))  # type: ignore[arg-type]
    assert line.startswith("  12  2026-11-30")
    assert line.endswith(state)


def test_undecided_says_what_is_missing() -> None:
    one = replace(report.goodput(standard())[0], outcome=Outcome.UNDECIDED, more_windows=3)
    assert report.shown(one).endswith("; 3 more windows would decide")
    assert report.shown(replace(one, ratio=None)) == "undecided: too few valid windows"


def test_page_says_of_each_rule_whether_anything_is_known() -> None:
    full = engine("chat-vllm", 1.0)
    start = replace(full.starts[0], windows=tuple(replace(one, clock_mhz=None) for one in full.starts[0].windows))
    measured = (replace(one, own_cost=OwnCost(pairs=9)) for one in standard().engines)
    assert page.unknown(replace(standard(), engines=tuple(measured))) == {}
    assert page.unknown(result(replace(full, starts=(start,)))) == {
        **dict.fromkeys(("F1", "F11"), "nothing is known of GPUs"),
        **dict.fromkeys(("F2", "F3"), "one engine only"),
        "F10": "one start of each engine only",
        "F13": "what the router adds was not measured",
    }
    assert "<td>nothing is known of GPUs</td>" in page.html(result(replace(full, starts=(start,))))


def test_page_is_well_formed_and_needs_nothing_else() -> None:
    slow = broken(engine("chat-vllm", 1.0), "F7: <86%> of & more")
    for found in (standard(), result(slow, engine("chat-sglang", 1.1)), result(engine("chat-vllm", 1.0))):
        html = page.html(found)
        assert "<script" not in html
        assert re.findall(r"https?://(?!www\.w3\.org)", html) == []
        assert len(html) < 200_000
        for drawn in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
            ET.fromstring(drawn)  # noqa: S314 - our own
    assert html.count("<svg") == 5  # without ratios
    assert page.html(standard()).count("<svg") == 6
    assert "F7: &lt;86%&gt; of &amp; more" in page.html(result(slow))


def test_page_of_windows_without_figures_has_no_empty_pictures() -> None:
    nothing = engine("chat-vllm", 1.0, starts=())
    assert "<svg" not in page.html(result(nothing))


def test_chart_shows_intervals_and_rules() -> None:
    marks = (Mark(x=1, y=2, low=1.5, high=2.5), Mark(x=2, y=3))
    chart = Chart(title="a < b", x="x", y="y", series=(Series(name="s", marks=marks),), rules=((2.2, "SLO"),))
    drawn = svg(chart)
    assert drawn.count("<circle") == 2
    assert drawn.count("polyline") == 1
    assert "a &lt; b" in drawn
    assert ET.fromstring(drawn) is not None  # noqa: S314 - our own
    same = Chart(title="t", x="x", y="y", series=(Series(name="s", marks=(Mark(x=1, y=1),)),), from_zero=False)
    assert "nan" not in svg(same)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.9, 1.2, [0.9, 1.0, 1.1, 1.2]), (0, 0, [0])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)

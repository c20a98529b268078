"""A result as one HTML file: no script, no network, and all windows as JSON in it; pure."""

from collections.abc import Callable, Iterator
from html import escape

import msgspec

from berth.bench import report
from berth.bench.drawing import Chart, Mark, Series, svg
from berth.records.results import BenchResult, EngineResult, Window

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1160px;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
pre{background:#f5f5f2;padding:1rem;overflow-x:auto;font-size:12.5px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1.5rem}
svg{width:100%;height:auto;background:#fff}
.title{font:600 14px system-ui}.small{font:11px system-ui}.grid{stroke:#e6e6e1}.axis{stroke:#555}
.rule{stroke:#b02a37;stroke-dasharray:5 4}
table{border-collapse:collapse;font-size:13px}td,th{border:1px solid #ddd;padding:.25rem .5rem;text-align:left}
.broken{color:#b02a37}
@media print{.charts{grid-template-columns:1fr 1fr}}
"""
_RULES = (
    ("F1", "one engine at a time, and nothing else, on the GPUs"),
    ("F2", "the same weights, context and GPUs"),
    ("F3", "Berth's arguments for each engine, and none that handicaps one of them"),
    ("F4", "the same prompts as token ids, counted alike by each engine"),
    ("F5", "answers of exactly the length that was asked for"),
    ("F6", "the same arrivals, decided before the first one"),
    ("F7", "new prompts in each window: at most 1 % of their tokens from a cache"),
    ("F8", "each window follows its warm-up without a pause"),
    ("F9", "enough requests, counted by their start"),
    ("F10", "several starts of each engine, in the order A B B A"),
    ("F11", "no throttled GPU, and the same clock for all engines"),
    ("F12", "a client that is never the limit; few failures"),
    ("F13", "straight to the engine; what the router adds is measured apart, as Berth's own cost"),
)


def html(result: BenchResult) -> str:
    title = escape(f"{result.model}: bench {result.id}")
    figures = "".join(f"<figure>{drawn}</figure>" for chart in charts(result) if (drawn := svg(chart)))
    commands = "".join(
        f"<p><b>{escape(one.replica)}</b> {escape(one.version)}<pre>{escape(' '.join(one.argv))}</pre>"
        for one in result.engines
    )
    raw = escape(msgspec.json.format(msgspec.json.encode(result), indent=1).decode(), quote=False)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
        f"<pre>{escape(report.text(result))}</pre><div class=charts>{figures}</div>"
        f"<h2>Rules</h2>{rules_table(result)}<h2>Command lines</h2>{commands}"
        f"<h2>Everything</h2><details><summary>all windows, as JSON</summary><pre>{raw}</pre></details></html>\n"
    )


def charts(result: BenchResult) -> Iterator[Chart]:
    slo, load = result.slo, "finished requests/s"
    yield Chart(
        title="Requests that keep to the SLO, by load",
        x=load,
        y="%",
        series=by_load(result, lambda one: 100 * one.attainment),
        rules=((slo.percent, f"{slo.percent:g} %"),),
    )
    yield Chart(
        title="ttft p95, by load",
        x=load,
        y="ms",
        series=by_load(result, lambda one: 1e3 * one.ttft["p95"].value if one.ttft else None),
        rules=((slo.ttft_s * 1e3, "SLO"),),
    )
    yield Chart(
        title="tpot p95, by load",
        x=load,
        y="ms",
        series=by_load(result, lambda one: 1e3 * one.tpot["p95"].value if one.tpot else None),
        rules=((slo.tpot_s * 1e3, "SLO"),),
    )
    yield Chart(
        title="Throughput against speed for one user",
        x="tokens/s for one user",
        y="tokens/s",
        series=scattered(result, lambda one: (1 / one.tpot["p50"].value, one.tokens_per_s) if one.tpot else None),
    )
    yield from ratio_charts(result)
    yield Chart(
        title="Power, by load",
        x="tokens/s",
        y="W",
        series=scattered(result, lambda one: (one.tokens_per_s, one.power_w) if one.power_w is not None else None),
    )


def scattered(result: BenchResult, place: Callable[[Window], tuple[float, float] | None]) -> tuple[Series, ...]:
    """A mark for each window."""
    return tuple(
        Series(
            name=one.replica,
            line=False,
            marks=tuple(Mark(x=at[0], y=at[1]) for window in one.windows() if (at := place(window)) is not None),
        )
        for one in result.engines
    )


def ratio_charts(result: BenchResult) -> Iterator[Chart]:
    for one in report.goodput(result):
        if one.ratio is None:
            continue
        pairs = tuple(Mark(x=number, y=ratio) for number, ratio in enumerate(one.ratios, 1))
        whole = Mark(x=len(pairs) + 1, y=one.ratio, low=one.low, high=one.high)
        yield Chart(
            title=f"Goodput of {one.replica} next to {result.engines[0].replica}",
            x="pair of windows; the last one is all of them",
            y="ratio",
            series=(
                Series(name="pairs", marks=pairs, line=False),
                Series(name="all, with 95 % interval", marks=(whole,)),
            ),
            rules=((1.0, "equal"),),
            from_zero=False,
        )


def by_load(result: BenchResult, value: Callable[[Window], float | None]) -> tuple[Series, ...]:
    def marks(one: EngineResult) -> tuple[Mark, ...]:
        windows = sorted((w for start in one.starts for w in start.windows), key=lambda window: window.achieved)
        return tuple(Mark(x=window.achieved, y=found) for window in windows if (found := value(window)) is not None)

    return tuple(Series(name=one.replica, marks=marks(one)) for one in result.engines)


def unknown(result: BenchResult) -> dict[str, str]:
    """Rules about which the run says nothing, and why."""
    found = dict[str, str]()
    if not any(window.clock_mhz for one in result.engines for window in one.windows()):
        found |= dict.fromkeys(("F1", "F11"), "nothing is known of GPUs")
    if any(len(one.starts) < 2 for one in result.engines):
        found["F10"] = "one start of each engine only"
    if not any(one.own_cost and one.own_cost.pairs and not one.own_cost.problem for one in result.engines):
        found["F13"] = "what the router adds was not measured"
    if len(result.engines) < 2:
        found |= dict.fromkeys(("F2", "F3"), "one engine only")
    return found


def rules_table(result: BenchResult) -> str:
    broken = [rule for one in result.engines for window in one.windows() for rule in window.broken]
    broken += result.broken
    rows = ""
    for number, meaning in _RULES:
        found = sorted({rule for rule in broken if rule.startswith(f"{number}:")})
        known = f"<td>{unknown(result).get(number, 'kept')}</td>"
        state = f'<td class="broken">{escape("; ".join(found)[:500])}</td>' if found else known
        rows += f"<tr><th>{number}<td>{escape(meaning)}</td>{state}</tr>"
    return f"<table>{rows}</table>"

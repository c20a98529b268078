"""A frame of `berth top`: pure. What does not fit is left out: requests first, then models that are far from the
selected replica. Narrow terminals get fewer columns.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from berth.time_left import words
from berth.top.sources import Snapshot
from berth.top.view import View
from berth.units import GIB

_WIDE: Final = 100
_BAR: Final = 20
_STALE_S: Final = 3.0
_LEAST_ROWS: Final = 4  # of models, where hardly anything fits
_STYLES: Final[Mapping[str, str]] = {
    "ready": "green",
    **dict.fromkeys(("failed", "unhealthy"), "red"),
    **dict.fromkeys(("backoff", "starting", "waking", "waiting", "draining", "stopping"), "yellow"),
}
_MARKS: Final[Mapping[str, str]] = {"ready": "+", "failed": "x", "unhealthy": "!", "backoff": "!"}
_HELP: Final = (
    ("q", "quit"),
    ("p", "pause, and continue"),
    ("s", "sort the models: as planned, by tokens per second, by running requests"),
    ("up, down", "select a replica"),
    ("l", "the log of its engine"),
    ("r", "requests: those in progress, and the last ones"),
    ("?", "this help"),
)


def frame(snapshot: Snapshot, view: View, console: Console, *, now: float, live: bool = True) -> RenderableType:
    """`now`: Unix seconds. `live`: on a screen, whose height is the limit; otherwise everything is shown."""
    height = console.height if live else 10_000
    parts: list[RenderableType] = [*header(snapshot, view, now)]
    if view.page == "help":
        parts += [_line(f"  {key:10} {what}") for key, what in _HELP]
    elif view.page == "log":
        room = max(1, height - len(parts) - 1)
        parts.append(Text(f"log of {selected(snapshot, view)}", style="bold"))
        parts += [_line(line) for line in snapshot.lines[-room + 1 :]]
    else:
        if view.page == "overview":
            parts += [gpu_line(gpu, console) for gpu in snapshot.traffic.get("gpus", ())]
            most = max(height - len(parts) - 1, _LEAST_ROWS)
            models = models_table(snapshot, view, wide=console.width >= _WIDE, now=now, most=most)
            parts.append(models)
            used = len(parts) + models.row_count
        else:
            used = len(parts)
        if (room := height - used - 2) > 0:
            parts.append(requests_table(snapshot, console.width, most=room if live else 10))
    return Group(*parts)


def replicas(snapshot: Snapshot, view: View) -> list[str]:
    """Their names, as they are shown."""
    return [replica["name"] for model in _sorted(snapshot, view) for replica in model["replicas"]]


def selected(snapshot: Snapshot, view: View) -> str:
    known = replicas(snapshot, view)
    return view.selected if view.selected in known else known[0] if known else ""


def header(snapshot: Snapshot, view: View, now: float) -> Iterator[Text]:
    models = snapshot.traffic.get("models", {}).values()
    total = {name: sum(model[name] for model in models) for name in ("tokens_out_s", "in_flight", "queue", "errors_s")}
    title = Text.assemble(
        ("berth ", "bold"),
        f"{snapshot.status.get('version', '').partition('+')[0]}   ",
        (f"{total['tokens_out_s']:,.0f} tok/s", "bold"),
        f"   {total['in_flight']} running   {total['queue']} queued   ",
        (f"{total['errors_s']:.2f} errors/s", "red" if total["errors_s"] else ""),
        ("   paused" if view.paused else "", "yellow"),
        ("   ? help", "dim"),
    )
    yield _line(title)
    age_s = now - snapshot.at if snapshot.at else 0.0
    if snapshot.problem or (age_s > _STALE_S and not view.paused):
        stale = f"no data for {age_s:.0f} s" if snapshot.at else "no data yet"
        yield _line(Text(f"! {stale}{': ' * bool(snapshot.problem)}{snapshot.problem}", style="yellow"))
    for notice in snapshot.status.get("notices", ()):
        style = "red" if notice["kind"] == "model_down" else "yellow"
        yield _line(Text(f"! {notice['text']} ({notice['help']})", style=style))


def gpu_line(gpu: Mapping[str, Any], console: Console) -> Text:
    share = gpu["used"] / gpu["total"] if gpu["total"] else 0.0
    full, empty = ("█", "░") if console.encoding.lower().startswith("utf") else ("#", ".")
    cells = round(share * _BAR)
    busy = "" if gpu["busy"] is None else f"  {gpu['busy'] * 100:.0f} % busy"
    busy += "" if gpu.get("watts") is None else f"  {gpu['watts']:.0f} W"
    busy += "" if gpu.get("celsius") is None else f"  {gpu['celsius']} C"
    style = "red" if share > 0.97 else "green"
    used = f"{gpu['used'] / GIB:.1f} of {gpu['total'] / GIB:.1f} GiB"
    bar = (f"GPU {gpu['index']}  ", (full * cells, style), empty * (_BAR - cells))
    return _line(Text.assemble(*bar, f"  {used}{busy}"))


def _sorted(snapshot: Snapshot, view: View) -> Sequence[Mapping[str, Any]]:
    rates = snapshot.traffic.get("models", {})
    field = {"tokens": "tokens_out_s", "running": "in_flight"}.get(view.sort)
    models = list(snapshot.status.get("models", ()))
    return sorted(models, key=lambda model: -rates.get(model["name"], {}).get(field, 0)) if field else models


def models_table(snapshot: Snapshot, view: View, *, wide: bool, now: float, most: int | None = None) -> Table:
    """`most`: of its rows; around the selected replica where there are more."""
    table = _table(("model", "<"), ("status", "<"), ("run", ">"), ("queue", ">"), ("tok/s", ">"))
    for heading in (*(("req/s", "ttft p50", "p95") if wide else ("ttft p50",)), "kv"):
        table.add_column(heading, justify="right", no_wrap=True)
    chosen = selected(snapshot, view)
    rows = [*_rows(snapshot, view, chosen, wide=wide, now=now)]
    more = 0
    if most is not None and len(rows) > most:
        size = most - 1
        place = next((place for place, (name, _) in enumerate(rows) if name == chosen), 0)
        begin = max(0, min(place - size // 2, len(rows) - size))
        rows, more = rows[begin : begin + size], len(rows) - size
    for _, cells in rows:
        table.add_row(*cells)
    if more:
        table.add_row(Text(f"... {more} more", style="dim"), Text("up, down", style="dim"))
    return table


def _rows(
    snapshot: Snapshot, view: View, chosen: str, *, wide: bool, now: float
) -> Iterator[tuple[str, list[RenderableType]]]:
    """Each with the replica that it is of, or ""."""
    for model in _sorted(snapshot, view):
        rates = snapshot.traffic.get("models", {}).get(model["name"], {})
        cells = [str(rates.get("in_flight", "")), str(rates.get("queue", "")), f"{rates.get('tokens_out_s', 0):,.0f}"]
        p50, p95 = _seconds(rates.get("ttft_p50_s")), _seconds(rates.get("ttft_p95_s"))
        cells += [f"{rates.get('requests_s', 0):.1f}", p50, p95] if wide else [p50]
        yield "", [Text(model["name"], style="bold"), "", *cells]
        for replica in model["replicas"]:
            name = Text(f"  {replica['name']}", style="reverse" if replica["name"] == chosen else "")
            kv = snapshot.traffic.get("replicas", {}).get(replica["name"], {}).get("kv")
            first = (replica.get("latency") or {}).get("first_token_s") or {}
            p50, p95 = _seconds(first.get("p50")), _seconds(first.get("p95"))
            cells = [str(replica["in_flight"] or ""), "", "", *(["", p50, p95] if wide else [p50])]
            full = "" if kv is None else f"{kv * 100:.0f} %"
            yield replica["name"], [name, status_text(replica, now), *cells, full]
            for one in replica.get("ranks", ()):
                shown = " ".join(map(str, filter(None, (one["status"] or "-", one.get("generation")))))
                style = _STYLES.get(one["status"], "dim")
                yield "", [f"    rank {one['rank']} {one['box']}", Text(shown, style=style)]


def status_text(replica: Mapping[str, Any], now: float) -> Text:
    status, progress = str(replica["status"]), replica["progress"]
    shown = [_MARKS.get(status, "."), status]
    if progress:
        shown.append(progress["phase"])
        if progress["percent"] is not None:
            shown.append(f"{progress['percent']:.0f} %")
    if (ready_at := replica.get("ready_at")) is not None and ready_at > now:
        shown.append(f"~{words(ready_at - now)} left")
    return Text(" ".join(shown), style=_STYLES.get(status, "dim"))


def requests_table(snapshot: Snapshot, width: int, *, most: int) -> Table:
    """Those in progress, then the last ones, the newest first."""
    wide = width >= _WIDE
    columns = [("time", "<"), *([("key", "<"), ("api", "<")] if wide else []), ("model", "<"), ("engine", "<")]
    columns += [("status", ">"), ("first", ">"), ("total", ">"), ("tokens", ">"), ("marks", "<")]
    table = _table(*columns)
    for one in [*snapshot.running, *reversed(snapshot.requests)][:most]:
        over, failed = one["phase"] == "over", one["status"] >= 400 or "broken" in one["flags"]
        engine = f"{one['previous_replica']} > {one['replica']}" if one["previous_replica"] and wide else one["replica"]
        marks = [flag for flag in one["flags"] if flag != "stream"] + ([one["error_code"]] if one["error_code"] else [])
        tokens = f"{one['prompt_tokens']}+{one['completion_tokens']}" if over else f"{one['frames'] or ''}"
        table.add_row(
            time.strftime("%H:%M:%S", time.localtime(one["start"])),
            *([one["key"], one["api"]] if wide else []),
            one["model"] or "-",
            engine or "-",
            str(one["status"]) if over else one["phase"],
            _seconds(one["first_token_s"]),
            _seconds(one["duration_s"]),
            tokens,
            " ".join(marks),
            style="red" if over and failed else "" if over else "cyan",
        )
    return table


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold underline")
    for name, side in columns:
        table.add_column(name, justify="right" if side == ">" else "left", no_wrap=True, overflow="ellipsis")
    return table


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _line(text: Text | str) -> Text:
    """One line, cut at the edge of the screen."""
    line = Text(text) if isinstance(text, str) else text
    line.no_wrap, line.overflow = True, "ellipsis"
    return line

"""Frames: what they show, and that they fit."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from berth.top.screen import frame, gpu_line, models_table, replicas, requests_table, selected, status_text
from berth.top.sources import Snapshot
from berth.top.view import View
from tests.top.frames import NOW, SNAPSHOT, replica, request

OVERVIEW = View()


def drawn(
    snapshot: Snapshot = SNAPSHOT, view: View = OVERVIEW, *, width: int = 80, height: int = 24, **how: object
) -> str:
    encoding = "ascii" if how.get("ascii") else "utf-8"
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(
        file=file,
        width=width,
        height=height,
        force_terminal=bool(how.get("colour")),
        color_system=None if not how.get("colour") else "standard",
    )
    console.print(frame(snapshot, view, console, now=NOW, live=bool(how.get("live", True))))
    file.seek(0)
    return file.read()


def test_overview_at_80_columns() -> None:
    lines = [line.rstrip() for line in drawn().splitlines()]
    assert lines[0] == "berth 0.2.0   3,812 tok/s   3 running   2 queued   0.50 errors/s   ? help"
    assert lines[1] == "! 6 of 9 requests of chat failed in 5 min (berth logs)"
    assert lines[2] == "GPU 0  " + "█" * 15 + "░" * 5 + "  60.0 of 80.0 GiB  93 % busy"
    text = "\n".join(lines)
    assert "  chat-vllm    + ready" in text
    assert next(line for line in lines if "+ ready" in line).split() == [
        "chat-vllm",
        "+",
        "ready",
        "3",
        "0.11",
        "41",
        "%",
    ]
    assert ". starting load 62 %" in text
    assert "queue_full" in text
    assert lines[-2].split()[1:] == ["chat", "chat-sglang", "200", "0.12", "3.40", "120+400", "continued"]
    assert "streaming" in lines[-3]


def test_wide_terminals_get_more_columns() -> None:
    text = drawn(width=140, height=50)
    assert "alice" in text
    assert "chat-vllm > chat-sglang" in text
    assert "req/s" in text
    assert next(line for line in text.splitlines() if "+ ready" in line).split()[4:6] == ["0.11", "0.35"]
    assert "alice" not in drawn(width=80)


@pytest.mark.parametrize("width", [20, 40, 80, 140])
@pytest.mark.parametrize("height", [5, 10, 24, 50])
@pytest.mark.parametrize("page", ["overview", "requests", "log", "help"])
def test_fits_every_terminal(width: int, height: int, page: str) -> None:
    many = replace(SNAPSHOT, requests=SNAPSHOT.requests * 60, lines=("long " * 60,) * 100)
    lines = drawn(many, View(page=page), width=width, height=height).splitlines()
    assert all(len(line) <= width for line in lines)
    if height >= 24 or page in ("requests", "log"):
        assert len(lines) <= height


def test_uses_ascii_where_the_terminal_has_nothing_else() -> None:
    text = drawn(ascii=True)
    assert "GPU 0  ###############....." in text
    assert text.isascii()


def test_colours_only_where_they_are_wanted() -> None:
    assert "\033[" in drawn(colour=True)
    assert "\033[" not in drawn()


def test_frame_that_is_printed_once_shows_all() -> None:
    many = replace(SNAPSHOT, requests=tuple(request(request=str(number)) for number in range(50)))
    assert drawn(many, height=5, live=False).count("120+400") == 9  # and the one in progress


def test_memory_of_a_gpu_is_a_bar() -> None:
    console = Console(file=io.StringIO(), width=80)
    full = gpu_line({"index": 1, "used": 79 << 30, "total": 80 << 30, "busy": None}, console)
    assert full.plain.endswith("  79.0 of 80.0 GiB")
    assert full.spans[0].style == "red"
    assert gpu_line({"index": 1, "used": 0, "total": 0, "busy": 0.0}, console).plain.endswith("0 % busy")
    warm = {"index": 1, "used": 0, "total": 0, "busy": 0.9, "watts": 412.4, "celsius": 61}
    assert gpu_line(warm, console).plain.endswith("90 % busy  412 W  61 C")


def test_requests_table_has_those_in_progress_first() -> None:
    assert requests_table(SNAPSHOT, 140, most=2).row_count == 2
    assert [row.style for row in requests_table(SNAPSHOT, 140, most=9).rows] == ["cyan", "", "red"]


def test_models_table_has_a_row_for_each_model_and_replica() -> None:
    assert models_table(SNAPSHOT, OVERVIEW, wide=False, now=NOW).row_count == 5


@pytest.mark.parametrize(
    ("status", "progress", "text", "style"),
    [
        ("ready", None, "+ ready", "green"),
        ("failed", None, "x failed", "red"),
        ("backoff", None, "! backoff", "yellow"),
        ("standby", None, ". standby", "dim"),
        ("starting", {"phase": "load", "percent": 62.0}, ". starting load 62 %", "yellow"),
        ("starting", {"phase": "compile", "percent": None}, ". starting compile", "yellow"),
    ],
)
def test_status_has_a_mark_and_a_colour(status: str, progress: object, text: str, style: str) -> None:
    shown = status_text(replica("chat", status, progress=progress), NOW)
    assert (shown.plain, shown.style) == (text, style)


@pytest.mark.parametrize(("ready_at", "text"), [(NOW + 42, " ~42 s left"), (NOW, ""), (None, "")])
def test_status_has_the_time_left(ready_at: float | None, text: str) -> None:
    starting = replica("chat", "starting", progress={"phase": "load", "percent": 62.0}, ready_at=ready_at)
    shown = status_text(starting, NOW)
    assert shown.plain == f". starting load 62 %{text}"


def test_requests_page_has_as_many_as_fit() -> None:
    many = replace(SNAPSHOT, requests=SNAPSHOT.requests * 60)
    text = drawn(many, View(page="requests"))
    assert "GPU" not in text
    assert text.count("chat") > 15


def test_log_page_shows_the_end_of_the_selected_log() -> None:
    lines = drawn(view=View(page="log", selected="chat-sglang")).splitlines()
    assert [line.rstrip() for line in lines[-3:]] == ["log of chat-sglang", "first", "second"]


def test_help_names_the_keys() -> None:
    text = drawn(view=View(page="help"))
    assert all(key in text for key in ("q ", "p ", "s ", "up, down", "l ", "r ", "? "))


def test_sorts_models() -> None:
    assert replicas(SNAPSHOT, View()) == ["chat-vllm", "chat-sglang", "embed-vllm"]
    assert replicas(SNAPSHOT, View(sort="tokens"))[0] == "embed-vllm"
    assert replicas(SNAPSHOT, View(sort="running"))[0] == "chat-vllm"


def test_selects_the_first_replica_until_another_is_chosen() -> None:
    assert selected(SNAPSHOT, View()) == "chat-vllm"
    assert selected(SNAPSHOT, View(selected="embed-vllm")) == "embed-vllm"
    assert selected(SNAPSHOT, View(selected="gone")) == "chat-vllm"
    assert selected(Snapshot(), View()) == ""


@pytest.mark.parametrize(
    ("snapshot", "view", "line"),
    [
        (Snapshot(problem="connecting"), View(), "! no data yet: connecting"),
        (replace(SNAPSHOT, at=NOW - 8), View(), "! no data for 8 s"),
        (replace(SNAPSHOT, at=NOW - 8, problem="gone"), View(), "! no data for 8 s: gone"),
    ],
)
def test_says_when_it_is_stale(snapshot: Snapshot, view: View, line: str) -> None:
    assert line in [shown.rstrip() for shown in drawn(snapshot, view).splitlines()]


def test_paused_is_not_stale() -> None:
    text = drawn(replace(SNAPSHOT, at=NOW - 8), View(paused=True))
    assert "no data" not in text
    assert "paused" in text


def test_ranks_of_several_boxes_are_below_their_replica() -> None:
    ranks = [
        {"rank": 0, "box": "10.0.0.1", "status": "ready", "generation": 7},
        {"rank": 1, "box": "10.0.0.2", "status": ""},
    ]
    status = {**SNAPSHOT.status, "models": [{"name": "big", "replicas": [replica("big-vllm", ranks=ranks)]}]}
    lines = [line.split() for line in drawn(replace(SNAPSHOT, status=status)).splitlines()]
    place = next(number for number, words in enumerate(lines) if words[:1] == ["big-vllm"])
    assert lines[place + 1 : place + 3] == [["rank", "0", "10.0.0.1", "ready", "7"], ["rank", "1", "10.0.0.2", "-"]]


def test_models_that_do_not_fit_are_reached_by_the_arrows() -> None:
    models = [{"name": f"m{number}", "replicas": [replica(f"m{number}-vllm")]} for number in range(20)]
    many = replace(SNAPSHOT, status={**SNAPSHOT.status, "models": models})
    view = OVERVIEW
    for number in range(20):
        lines = drawn(many, view, height=24).splitlines()
        assert len(lines) <= 24
        assert f"  m{number}-vllm" in "\n".join(lines)
        assert lines[-1].startswith("... ")
        view = view.pressed("down", replicas(many, view))
    assert "m0-vllm" not in "\n".join(lines)

"""The loop of `berth top`: a frame a second, and one after each key."""

import io
import json
import signal
import sys
import time
from collections.abc import Mapping
from typing import IO, Final

from rich.console import Console
from rich.live import Live

from berth.top.keyboard import Keyboard
from berth.top.screen import frame, replicas, selected
from berth.top.sources import PERIOD_S, LocalSource, RemoteSource, Snapshot, Source
from berth.top.view import View

_FIRST_S: Final = 10.0  # until a server has answered
_POLL_S: Final = 0.05


def top(run_dir: str, url: str, environ: Mapping[str, str], *, once: bool, as_json: bool) -> int:
    """Returns the exit code. ControlError when there is nothing to show: Berth was never started, or denies access."""
    keys = [key for name in ("BERTH_ADMIN_KEY", "OPENAI_API_KEY") if (key := environ.get(name))]
    source: Source = RemoteSource(url, keys) if url else LocalSource(run_dir)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # the terminal is restored on the way out
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # logs and names may have characters that the terminal does not
    try:
        if as_json:
            print_traffic(source, sys.stdout, once=once)
        elif once or not (sys.stdout.isatty() and sys.stdin.isatty()):
            print_frame(source, Console())
        else:
            with Keyboard(sys.stdin.fileno()) as keyboard:
                draw(source, Console(), keyboard)
    except KeyboardInterrupt:
        return 0
    finally:
        source.close()
    return 0


def print_traffic(source: Source, output: IO[str], *, once: bool) -> None:
    """The event `traffic` as a line of JSON, once a second."""
    snapshot = _second(source)
    while True:
        output.write(json.dumps(snapshot.traffic) + "\n")
        output.flush()
        if once:
            return
        time.sleep(PERIOD_S)
        snapshot = source.snapshot()


def print_frame(source: Source, console: Console) -> None:
    console.print(frame(_second(source), View(), console, now=time.time(), live=False))


def draw(source: Source, console: Console, keyboard: Keyboard) -> None:
    """On the alternate screen, until the user quits or the terminal is closed."""
    view, snapshot = View(), source.snapshot()
    following = ""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not view.quit:
            live.update(frame(snapshot, view, console, now=time.time()), refresh=True)
            key = keyboard.read(PERIOD_S)
            if key is None:
                return
            view = view.pressed(key, replicas(snapshot, view))
            wanted = selected(snapshot, view) if view.page == "log" else ""
            if wanted != following:
                following = wanted
                source.follow(wanted)
            if not view.paused and (not key or wanted):
                snapshot = source.snapshot()


def _second(source: Source) -> Snapshot:
    """The first numbers that have rates: those of a second."""
    ends = time.monotonic() + _FIRST_S
    source.snapshot()
    time.sleep(PERIOD_S)
    while not (snapshot := source.snapshot()).traffic and time.monotonic() < ends:
        time.sleep(_POLL_S)
    return snapshot

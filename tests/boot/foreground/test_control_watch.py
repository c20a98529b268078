"""The foreground process and a control that does nothing any more."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from berth.boot.foreground.__main__ import MOST_SHOWN, Channel, ControlWatch
from berth.ipc.heartbeats import BLOCKED_ROUNDS
from berth.log import LogFormat

CONTROL_THAT_STOPS = """
import pathlib, signal, sys
from berth.ipc.heartbeats import CONTROL, Heartbeat
Heartbeat(pathlib.Path(sys.argv[1]), CONTROL).beat()
print(flush=True)
signal.pause()
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_kills_a_silent_control_and_logs_it(tmp_path: Path, log_format: LogFormat) -> None:
    path = tmp_path / "heartbeats"
    watch = ControlWatch(path, log_format)
    assert watch.round(0.0) == ""  # before control has started
    with subprocess.Popen([sys.executable, "-c", CONTROL_THAT_STOPS, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        lines = [watch.round(1.0 + number) for number in range(BLOCKED_ROUNDS + 1)]
        assert process.wait(10) == -signal.SIGKILL
    assert lines[:-1] == [""] * BLOCKED_ROUNDS
    text = f"silent control killed pid={process.pid}"
    assert json.loads(lines[-1])["line"] == text if log_format == "json" else text in lines[-1]
    assert [watch.round(20.0 + number) for number in range(99)] == [""] * 99


def test_shows_a_line_of_supervisord_once_a_minute(tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.write_bytes(b"Traceback\nNo space left\nTraceback\nNo space left\nother\n")
    for program, count in (("supervisord", 3), ("control", 5)):
        with path.open("rb") as file:
            assert Channel(program, file.fileno(), "text").read()[0].count("\n") == count


def test_remembers_a_limited_number_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(MOST_SHOWN + 2)) + b"0\n")
    with path.open("rb") as file:
        shown = Channel("supervisord", file.fileno(), "text").read()[0]
    assert shown.count(" | 0\n") == 2

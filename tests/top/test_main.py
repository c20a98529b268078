"""The loop: on a terminal, in a pipe, and how it ends."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from berth.errors import ControlError
from berth.plan import Plan
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.state import ReplicaStatus
from berth.top import main
from berth.top.keyboard import Keyboard
from berth.top.sources import Snapshot
from tests.fakes.router import make_plan, publish, replica, replica_state
from tests.top.frames import SNAPSHOT

LEAVES = b"\033[?1049l"  # the alternate screen


class Source:
    """The same numbers again and again."""

    def __init__(self, snapshot: Snapshot = SNAPSHOT) -> None:
        self.taken = 0
        self.followed: list[str] = []
        self._snapshot = snapshot

    def snapshot(self) -> Snapshot:
        self.taken += 1
        return self._snapshot

    def follow(self, replica: str) -> None:
        self.followed.append(replica)

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "PERIOD_S", 0.01)


class Terminal:
    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self.shown = io.StringIO()
        self.console = Console(file=self.shown, force_terminal=True, width=80, height=24, legacy_windows=False)

    def draw(self, source: Source, *keys: bytes) -> str:
        """Types each key after a frame was shown."""

        def type_() -> None:
            for key in keys:
                length = len(self.shown.getvalue())
                while len(self.shown.getvalue()) == length:
                    time.sleep(0.001)
                os.write(self.ours, key)

        typing = threading.Thread(target=type_)
        typing.start()
        with Keyboard(self.theirs) as keyboard:
            main.draw(source, self.console, keyboard)
        typing.join()
        return self.shown.getvalue()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    os.close(made.ours)
    os.close(made.theirs)


def test_draws_until_the_user_quits(terminal: Terminal) -> None:
    shown = terminal.draw(Source(), b"?", b"r", b"q")
    assert "chat-vllm" in shown
    assert "quit" in shown
    assert shown.endswith(("\033[?1049l\033[?25h", "\033[?25h\033[?1049l"))


def test_follows_the_log_that_is_shown(terminal: Terminal) -> None:
    source = Source()
    terminal.draw(source, b"l", b"\033[B", b"l", b"q")
    assert source.followed == ["chat-vllm", "chat-sglang", ""]


def test_pause_takes_no_new_numbers(terminal: Terminal) -> None:
    source = Source()
    terminal.draw(source, b"p", b"s", b"s", b"s", b"s", b"q")
    assert source.taken < 6


def test_ends_when_the_terminal_is_closed() -> None:
    ours, theirs = pty.openpty()
    keyboard = Keyboard(theirs)
    os.close(ours)
    shown = io.StringIO()
    main.draw(Source(), Console(file=shown, force_terminal=True, width=80, height=24), keyboard)
    os.close(theirs)
    assert "\033[?1049l" in shown.getvalue()


def test_prints_traffic_as_lines() -> None:
    output = io.StringIO()
    main.print_traffic(Source(), output, once=True)
    assert json.loads(output.getvalue()) == SNAPSHOT.traffic


def test_waits_for_a_server_that_has_not_answered_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "_FIRST_S", 0.1)
    shown = io.StringIO()
    main.print_frame(Source(Snapshot(problem="connecting")), Console(file=shown, width=80))
    assert "! no data yet: connecting" in shown.getvalue()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    made = make_plan(str(tmp_path), [replica("chat-a", "http://127.0.0.1:1")])
    made.paths.plan.write_bytes(made.to_json())
    Scoreboard.create(made.paths.scoreboard, layout(made), rows=1)
    publish(made, replica_state("chat-a", ReplicaStatus.READY))
    return made


def test_one_frame_where_the_output_is_no_terminal(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.top(plan.paths.run_dir, "", {}, once=False, as_json=False) == 0
    shown = capsys.readouterr().out
    assert "chat-a  + ready" in shown
    assert "\033" not in shown


def test_one_line_of_json(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.top(plan.paths.run_dir, "", {}, once=True, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["models"]["chat"]["in_flight"] == 0


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ControlError):
        main.top(str(tmp_path / "none"), "", {}, once=True, as_json=False)


@pytest.mark.parametrize("end", [b"q", b"\x03", signal.SIGTERM])
def test_leaves_the_terminal_as_it_was(plan: Plan, end: bytes | signal.Signals) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    environ = {**os.environ, "BERTH_RUN_DIR": plan.paths.run_dir, "TERM": "xterm"}
    environ = {name: value for name, value in environ.items() if name in ("PATH", "TERM", "BERTH_RUN_DIR", "LANG")}

    command = ["setsid", "--ctty", sys.executable, "-m", "berth", "top"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
    shown = b""
    while b"chat-a" not in shown:
        shown += os.read(ours, 65536)
    if isinstance(end, bytes):
        os.write(ours, end)
    else:
        process.send_signal(end)
    while LEAVES not in shown:
        shown += os.read(ours, 65536)
    assert process.wait(10) == 0
    assert termios.tcgetattr(theirs) == before
    assert b"Traceback" not in shown
    os.close(ours)
    os.close(theirs)

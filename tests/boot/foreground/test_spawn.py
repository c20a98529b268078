"""The processes next to supervisord, in separate processes: they fork."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from berth.plan import Plan
from berth.processes import channel
from tests.fakes.plans import make_plan

# Stays in the foreground with a child that runs argv[3]; argv[1] is plan.json, argv[2] a lock.
STAY = """
import os, pathlib, sys
from berth.boot.foreground.spawn import stay
from berth.plan import Plan
plan = Plan.from_json(pathlib.Path(sys.argv[1]).read_bytes())
print("before")
stay(plan, {**os.environ, "SEEN": "so"}, int(sys.argv[2]) or os.dup(0))
os.execv(sys.executable, [sys.executable, "-c", sys.argv[3], str(plan.paths.logs)])
"""
WAKE = """
import os, pathlib, sys
from berth.boot.foreground.spawn import wake
wake(pathlib.Path(sys.argv[1]), os.dup(0))
print("woken", flush=True)
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = make_plan(str(tmp_path))
    plan.paths.logs.mkdir()
    plan.paths.plan.write_bytes(plan.to_json())
    return plan


@contextmanager
def staying(plan: Plan, child: str, lock: int = 0) -> Iterator["subprocess.Popen[str]"]:
    argv = [sys.executable, "-c", STAY, str(plan.paths.plan), str(lock), child]
    fds = [lock] if lock else []
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=fds
    ) as process:
        yield process


def after(process: "subprocess.Popen[str]") -> list[str]:
    """The lines after the first, without the time."""
    text, _ = process.communicate()
    before, *lines = text.splitlines()
    assert before == "before"
    return [line.split(" ", 1)[1] for line in lines]


def test_shows_supervisords_output_and_returns_its_exit_code(plan: Plan) -> None:
    with staying(plan, "import os, sys; os.write(2, b'oops\\nbye'); sys.exit(7)") as process:
        assert after(process) == ["supervisord | oops", "supervisord | bye"]
    assert process.returncode == 7


def test_reads_until_the_last_program_has_ended(plan: Plan) -> None:
    child = """
import os, sys
if os.fork():
    os._exit(0)  # supervisord is gone, control still writes
with open(sys.argv[1] + "/control.fifo", "w") as control:
    os.close(1), os.close(2)
    print("12:00:00 control | mine\\nraw", file=control, flush=True)
"""
    with staying(plan, child) as process:
        text, _ = process.communicate()
    mine, raw = text.splitlines()[1:]
    assert mine == "12:00:00 control | mine"
    assert raw.endswith(" control | raw")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGINT, "SIGINT"),
        (signal.SIGHUP, "SIGTERM"),
        (signal.SIGUSR2, "SIGUSR2"),
    ],
)
def test_forwards_signals(plan: Plan, sent: signal.Signals, got: str) -> None:
    child = """
import signal
numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2]
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("up", flush=True)
print(signal.Signals(signal.sigwait(numbers)).name)
"""
    with staying(plan, child) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "before\n"
        assert process.stdout.readline().endswith(" supervisord | up\n")
        process.send_signal(sent)
        assert process.stdout.read().endswith(f" supervisord | {got}\n")
    assert process.returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, 137)])
def test_exit_code_of_a_child_ended_by_a_signal(plan: Plan, number: signal.Signals, code: int) -> None:
    with staying(plan, "import os, signal; print(os.getpid(), flush=True); signal.pause()") as process:
        assert process.stdout is not None
        process.stdout.readline()
        child = int(process.stdout.readline().split()[-1])
        if number is signal.SIGTERM:
            process.terminate()
        else:
            os.kill(child, number)
    assert process.returncode == code


def test_supervisord_ends_with_the_foreground(plan: Plan) -> None:
    reader, writer = os.pipe()
    child = (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); print('up', flush=True); signal.sigwait([15])"
    )
    with staying(plan, child, lock=writer) as process:
        os.close(writer)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        assert select.select([reader], [], [], 0)[0] == []  # the child has the lock
        process.kill()
    assert os.read(reader, 1) == b""  # it is gone
    os.close(reader)


def test_foreground_has_the_given_environment_and_no_lock(plan: Plan) -> None:
    reader, writer = os.pipe()
    child = f"import os, time; os.close({writer}); print('up', flush=True); input()"
    with staying(plan, child, lock=writer) as process:
        os.close(writer)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        assert os.read(reader, 1) == b""  # neither has it
        assert b"SEEN=so" in Path(f"/proc/{process.pid}/environ").read_bytes()
        process.terminate()
    os.close(reader)


def test_replaces_fifos_of_a_previous_run(plan: Plan) -> None:
    channel(plan.paths, "control").write_text("what a supervisord without a listener wrote")
    with staying(
        plan, "import stat, os, sys; print(stat.S_ISFIFO(os.stat(sys.argv[1] + '/control.fifo').st_mode))"
    ) as one:
        assert after(one) == ["supervisord | True"]


def test_waker_connects_once_the_socket_exists(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.sock"
    with subprocess.Popen([sys.executable, "-c", WAKE, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"woken\n"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            server.settimeout(10)
            server.accept()[0].close()


def test_waker_gives_up() -> None:
    code = WAKE.replace("wake(", "from berth.boot.foreground import spawn\nspawn.WAKE_S = 0\nwake(")
    assert subprocess.check_output([sys.executable, "-c", code, "/nowhere"]) == b"woken\n"


def test_waker_does_not_hold_the_lock() -> None:
    code = "import os, pathlib, signal\nfrom berth.boot.foreground.spawn import wake\n"
    code += "lock = int(os.sys.argv[1])\nwake(pathlib.Path('/nowhere'), lock)\nos.write(1, b'on'); os.close(1)\n"
    code += "signal.pause()"
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(writer)], stdout=subprocess.PIPE, pass_fds=[writer], process_group=0
    ) as process:
        os.close(writer)
        assert process.stdout is not None
        assert process.stdout.read() == b"on"
        assert select.select([reader], [], [], 0)[0] == []
        process.kill()
        assert os.read(reader, 1) == b""
        os.killpg(process.pid, signal.SIGKILL)
    os.close(reader)


def test_resumes_a_stopped_supervisord(plan: Plan) -> None:
    child = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); print('resumed')"
    with staying(plan, child) as process:
        lines = after(process)
    assert sorted(line.partition(" pid=")[0] for line in lines) == [
        "berth | stopped supervisord resumed",
        "supervisord | resumed",
    ]
    assert process.returncode == 0


def test_kills_a_silent_control(plan: Plan) -> None:
    child = """
import os, pathlib, signal, sys
from berth.ipc.heartbeats import CONTROL, Heartbeat
control = os.fork()
if control == 0:
    Heartbeat(pathlib.Path(sys.argv[1]).parent / "heartbeats", CONTROL).beat()
    os.kill(os.getpid(), signal.SIGSTOP)
print(signal.Signals(os.WTERMSIG(os.waitpid(control, 0)[1])).name)
"""
    with staying(plan, child) as process:
        text, _ = process.communicate(timeout=60)
    assert "silent control killed pid=" in text
    assert " supervisord | SIGKILL" in text

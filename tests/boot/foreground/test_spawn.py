"""The processes beside supervisord, in processes of their own: they fork."""

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
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=fds) as process:
        yield process


def after(process: "subprocess.Popen[str]") -> list[str]:
    """The lines after the first, without the time."""
    text, _ = process.communicate()
    before, *lines = text.splitlines()
    assert before == "before"
    return [line.split(" ", 1)[1] for line in lines]


def test_what_supervisord_says_comes_with_its_name_and_its_exit_code_is_ours(plan: Plan) -> None:
    with staying(plan, "import os, sys; os.write(2, b'oops\\nbye'); sys.exit(7)") as process:
        assert after(process) == ["supervisord | oops", "supervisord | bye"]
    assert process.returncode == 7


def test_programs_are_heard_by_name_as_long_as_one_of_them_speaks(plan: Plan) -> None:
    child = """
import os, sys
if os.fork():
    os._exit(0)  # supervisord is gone, control still has a word to say
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
def test_signals_are_passed_on(plan: Plan, sent: signal.Signals, got: str) -> None:
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
def test_a_child_that_dies_of_the_signal_that_was_asked_for_ended_well(
    plan: Plan, number: signal.Signals, code: int
) -> None:
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


def test_the_foreground_is_seen_with_the_environment_it_was_given_and_keeps_no_lock(plan: Plan) -> None:
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


def test_fifos_of_an_earlier_life_are_replaced(plan: Plan) -> None:
    channel(plan.paths, "control").write_text("what a supervisord without a listener wrote")
    with staying(
        plan, "import stat, os, sys; print(stat.S_ISFIFO(os.stat(sys.argv[1] + '/control.fifo').st_mode))"
    ) as one:
        assert after(one) == ["supervisord | True"]


def test_the_waker_knocks_once_there_is_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.sock"
    with subprocess.Popen([sys.executable, "-c", WAKE, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"woken\n"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            server.settimeout(10)
            server.accept()[0].close()


def test_the_waker_gives_up() -> None:
    code = WAKE.replace("wake(", "from berth.boot.foreground import spawn\nspawn.WAKE_S = 0\nwake(")
    assert subprocess.check_output([sys.executable, "-c", code, "/nowhere"]) == b"woken\n"


def test_the_waker_does_not_hold_the_lock() -> None:
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

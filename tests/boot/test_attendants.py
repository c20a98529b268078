"""The two processes beside supervisord, in processes of their own: they fork."""

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SPEAK = """
import os, sys
from berth.boot.attendants import ensure_openable_stdout
print("before", flush=True)
ensure_openable_stdout(os.dup(0))
again = open("/dev/fd/1", "ab", buffering=0) if sys.argv[1:] else open("/dev/fd/1", "wb", buffering=0)
again.write(b"by name\\n")
print("after", flush=True)
"""
WAKE = """
import os, pathlib, sys
from berth.boot.attendants import wake
wake(pathlib.Path(sys.argv[1]), os.dup(0))
print("woken", flush=True)
"""


def everything(reader: socket.socket) -> bytes:
    text = b""
    while data := reader.recv(4096):
        text += data
    return text


def test_a_socket_as_standard_output_gets_a_pipe_before_it() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen([sys.executable, "-c", SPEAK], stdout=theirs.fileno())
        with process:
            assert everything(ours) == b"before\nby name\nafter\n"
        assert process.returncode == 0


def test_a_pipe_and_a_file_stay_as_they_are(tmp_path: Path) -> None:
    assert subprocess.check_output([sys.executable, "-c", SPEAK]) == b"before\nby name\nafter\n"
    path = tmp_path / "output"
    with path.open("ab") as file:
        subprocess.run([sys.executable, "-c", SPEAK, "append"], stdout=file, check=True)
    assert path.read_bytes() == b"before\nby name\nafter\n"


def test_the_relay_outlives_the_signals_that_are_for_supervisord() -> None:
    code = SPEAK + "import os, signal\nfor number in (2, 15, 1):\n    signal.signal(number, signal.SIG_IGN)\n"
    code += "os.killpg(0, 2); os.killpg(0, 15); os.killpg(0, 1); print('last words', flush=True)"
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs.fileno(), process_group=0)
        with process:
            assert everything(ours).endswith(b"after\nlast words\n")


def test_writers_are_not_held_up_when_nobody_listens_any_more() -> None:
    code = (
        SPEAK
        + "sys.stdin.read()\nfor _ in range(100):\n    print('x' * 4096, flush=True)\nprint('done', file=sys.stderr)"
    )
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=theirs.fileno(), stderr=subprocess.PIPE
        )
    with process:
        with ours:
            text = b""
            while not text.endswith(b"after\n"):
                text += ours.recv(4096)
        assert process.communicate()[1].endswith(b"done\n")


def test_the_waker_knocks_once_there_is_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.sock"
    with subprocess.Popen([sys.executable, "-c", WAKE, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"woken\n"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            server.settimeout(10)
            server.accept()[0].close()


def test_the_waker_gives_up() -> None:
    code = WAKE.replace("wake(", "from berth.boot import attendants\nattendants.WAKE_S = 0\nwake(")
    assert subprocess.check_output([sys.executable, "-c", code, "/nowhere"]) == b"woken\n"


@pytest.mark.parametrize("attendant", ["wake(pathlib.Path('/nowhere'), lock)", "_interpose(lock)"])
def test_attendants_do_not_hold_the_lock(attendant: str) -> None:
    code = "import os, pathlib\nfrom berth.boot.attendants import *\nfrom berth.boot.attendants import _interpose\n"
    code += f"lock = int(os.sys.argv[1])\n{attendant}\nos.write(1, b'on'); os.close(1)\n"
    code += "import signal; signal.pause()"
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(writer)], stdout=subprocess.PIPE, pass_fds=[writer], process_group=0
    ) as process:
        os.close(writer)
        assert process.stdout is not None
        assert process.stdout.read(2) == b"on"
        assert select.select([reader], [], [], 0)[0] == []
        process.kill()
        assert os.read(reader, 1) == b""
        os.killpg(process.pid, signal.SIGKILL)
    os.close(reader)

"""New connections go to a worker that is well while another one is silent."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio.to_thread
import pytest

from berth.ipc.heartbeats import FIRST_WORKER, Heartbeat, Row
from berth.plan import Listen
from berth.proc_stat import stat_of
from berth.router.steering import BLOCKED_POLLS, STOPPED_POLLS, Steering, Watch, take_all

pytestmark = pytest.mark.anyio

OWN, ROW_BYTES = FIRST_WORKER + 2, 64
CONNECTIONS = 30  # by hash, another process would get some of them
OTHER = """
import os, socket, sys
from pathlib import Path
from berth.ipc.heartbeats import FIRST_WORKER, Heartbeat
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(128)
heartbeat = Heartbeat(Path(sys.argv[2]), FIRST_WORKER + 1)
heartbeat.beat()
print("listens", flush=True)
while True:
    accepted, _ = listener.accept()
    accepted.sendall(b"other")
    accepted.close()
"""


class Listener:
    """This process as a worker."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def listen(self) -> None:
        self.socket.listen(128)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = self.socket.accept()
                with suppress(OSError):
                    accepted.sendall(b"here")
                    accepted.recv(1)  # until the client closes it
                accepted.close()


def answers(port: int) -> set[str]:
    """Of new connections."""
    found = set()
    for _ in range(CONNECTIONS):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.settimeout(3)
            try:
                found.add(client.recv(16).decode())
            except TimeoutError:
                found.add("hangs")
    return found


@pytest.fixture(params=["first", "last"])
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Listener, "subprocess.Popen[str]", Path]]:
    """This process, which is the first or the last to listen, and another one. An older one, which does not listen any
    more, finishes its requests.
    """
    here, heartbeats = Listener(), tmp_path / "heartbeats"
    heartbeat = Heartbeat(heartbeats, OWN)
    heartbeat.beat()
    leaving = stat_of(os.getppid())
    assert leaving
    with heartbeats.open("r+b") as file:
        file.seek(FIRST_WORKER * ROW_BYTES)
        file.write(struct.pack("=QQQ", os.getppid(), leaving.start_ticks, 1))
    if request.param == "first":
        here.listen()
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(here.port), heartbeats], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout
    assert other.stdout.readline() == "listens\n"
    if request.param == "last":
        here.listen()
    yield here, other, heartbeats
    other.kill()
    other.communicate()
    here.socket.close()
    heartbeat.close()


async def test_new_connections_avoid_a_stopped_worker_until_it_is_gone(
    workers: tuple[Listener, "subprocess.Popen[str]", Path],
) -> None:
    here, other, heartbeats = workers
    steering = Steering(heartbeats, OWN, Listen(host="127.0.0.1", port=here.port, workers=2))
    own = Heartbeat(heartbeats, OWN)
    assert answers(here.port) == {"here", "other"}

    other.send_signal(signal.SIGSTOP)
    await anyio.to_thread.run_sync(os.waitid, os.P_PID, other.pid, os.WSTOPPED | os.WNOWAIT)
    for _ in range(STOPPED_POLLS + 1):
        own.beat()
        await steering.poll()
    assert answers(here.port) == {"here"}

    other.send_signal(signal.SIGCONT)
    for _ in range(2):
        own.beat()
        await steering.poll()
    assert answers(here.port) == {"here", "other"}
    own.close()


def test_only_connections_that_arrive_here_are_taken() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        assert not take_all("127.0.0.1", listener.getsockname()[1], most=3)  # it does not listen


@pytest.mark.parametrize(("beats", "polls"), [(0, None), (5, BLOCKED_POLLS)])
def test_a_busy_worker_is_given_time_and_a_starting_one_does_not_count(beats: int, polls: int | None) -> None:
    stat = stat_of(os.getpid())
    assert stat
    watch, row = Watch(), Row(os.getpid(), stat.start_ticks, beats)
    found = [number for number in range(2 * BLOCKED_POLLS) if watch.silent([row])]
    assert found[:1] == ([] if polls is None else [polls])


def test_heartbeats_begin_the_count_anew() -> None:
    stat = stat_of(os.getpid())
    assert stat
    watch = Watch()
    rows = [Row(os.getpid(), stat.start_ticks, 1 + number // BLOCKED_POLLS) for number in range(5 * BLOCKED_POLLS)]
    assert not any(watch.silent([row]) for row in rows)

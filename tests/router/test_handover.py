"""New connections go to the worker that listens last; the others' clients are told to open one."""

import resource
import socket
from collections.abc import Iterator

import pytest

from berth.router.handover import prefer_newest

ROUNDS = 60  # by hash, every listener would get some of them


class Listener:
    """Counts what it is given."""

    def __init__(self, port: int = 0) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(("127.0.0.1", port))
        self.socket.listen(2 * ROUNDS)
        self.socket.setblocking(False)
        self.port: int = self.socket.getsockname()[1]

    def taken(self) -> int:
        count = 0
        while True:
            try:
                accepted, _ = self.socket.accept()
            except BlockingIOError:
                return count
            accepted.close()
            count += 1


@pytest.fixture
def listeners() -> Iterator[list[Listener]]:
    first = Listener()
    all_of_them = [first, *(Listener(first.port) for _ in range(2))]
    yield all_of_them
    for listener in all_of_them:
        listener.socket.close()


def connect(port: int, times: int = ROUNDS) -> None:
    for _ in range(times):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_newest_worker_gets_all_new_connections(listeners: list[Listener]) -> None:
    assert prefer_newest(listeners[0].port, workers=2)
    connect(listeners[0].port)

    assert [listener.taken() for listener in listeners] == [0, 0, ROUNDS]


def test_connections_spread_again_afterwards(listeners: list[Listener]) -> None:
    assert prefer_newest(listeners[0].port, workers=2)
    listeners.pop(0).socket.close()  # the old one has left
    connect(listeners[0].port)

    assert all(listener.taken() for listener in listeners)


def test_handover_works_repeatedly(listeners: list[Listener]) -> None:
    assert prefer_newest(listeners[0].port, workers=2)
    listeners.pop(0).socket.close()
    listeners.append(Listener(listeners[0].port))
    connect(listeners[0].port)

    assert [listener.taken() for listener in listeners] == [0, 0, ROUNDS]


def test_no_listener_means_no_steering() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert not prefer_newest(probe.getsockname()[1], workers=1)


def test_no_free_descriptor_means_no_steering(listeners: list[Listener]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert not prefer_newest(listeners[0].port, workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

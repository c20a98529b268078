"""The connections of clients: how many there may be, and which of them are closed."""

import asyncio
import resource
import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.plan import Plan
from berth.router.client_connections import (
    OWN_DESCRIPTORS,
    ClientConnections,
    Heads,
    Room,
    Row,
    Unread,
    close,
    look,
    own_room,
    room,
    surplus,
)
from berth.router.exchange.inflight import Client
from berth.state import ReplicaStatus
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica, replica_state
from tests.fakes.upstream import HANG, FakeUpstream, chat_answer, chat_frame, chunk, stream_head

pytestmark = pytest.mark.anyio


def row(port: int, idle_ms: int = 0, *, unread_bytes: int = 0, acked_bytes: int = 0, received_bytes: int = 0) -> Row:
    return Row(
        descriptor=port,
        client=("127.0.0.1", str(port)),
        idle_ms=idle_ms,
        unread_bytes=unread_bytes,
        acked_bytes=acked_bytes,
        received_bytes=received_bytes,
    )


@given(descriptors=st.integers(100, 10**9))
def test_each_client_leaves_a_descriptor_for_its_engine(descriptors: int) -> None:
    limits = room(descriptors)
    assert limits.served < limits.accepted
    assert limits.accepted + limits.served + OWN_DESCRIPTORS <= descriptors


def test_the_room_is_that_of_this_process() -> None:
    assert own_room() == room(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def test_closes_the_longest_idle_and_none_with_a_request() -> None:
    rows = [row(1, 50), row(2, 900), row(3, 100), row(4, 5)]
    busy = {("127.0.0.1", "2")}
    assert [one.descriptor for one in surplus(rows, busy, 2)] == [3, 1]
    assert [one.descriptor for one in surplus(rows, busy, 0)] == [3, 1, 4]
    assert surplus(rows, busy, 4) == surplus(rows, busy, 9) == []
    assert surplus([row(1, 9, unread_bytes=1), row(2, 5)], (), 0) == [row(2, 5)]


def test_a_client_that_takes_nothing_has_stalled() -> None:
    unread = Unread()
    slow = [row(1, unread_bytes=10, acked_bytes=moment) for moment in range(4)]
    stuck = row(2, unread_bytes=10, acked_bytes=7)
    found = [unread.stalled([slow[moment], stuck, row(3)], moment, limit_s=1.5) for moment in range(4)]
    assert found == [[], [], [stuck], [stuck]]


def test_a_client_that_went_on_has_not_stalled() -> None:
    unread = Unread()
    rows = [row(1, unread_bytes=5), row(1), row(1, unread_bytes=5), row(1, unread_bytes=5)]
    assert [unread.stalled([one], moment, limit_s=1.5) for moment, one in enumerate(rows)] == [[], [], [], []]


HEADS: dict[str, tuple[list[tuple[int, int]], bool]] = {  # bytes acked and received at each look, and is it late
    "has sent nothing": ([(0, 0)] * 4, False),
    "has sent half a head": ([(0, 9)] * 4, True),
    "sends a byte now and then": ([(0, 9), (0, 10), (0, 11), (0, 12)], True),
    "has a response": ([(0, 0), (50, 20), (50, 20), (50, 20)], False),
    "had one before the first look": ([(50, 20)] * 4, False),
    "sends requests": ([(0, 0), (50, 20), (100, 40), (150, 60)], False),
    "has sent half of its second head": ([(50, 20), (50, 29), (50, 29), (50, 29)], True),
    "was slow, but has a response": ([(0, 9), (0, 15), (50, 20), (50, 20)], False),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_has_a_limited_time(name: str) -> None:
    looks, is_late = HEADS[name]
    heads = Heads()
    found = [
        heads.late([row(1, acked_bytes=acked, received_bytes=received)], (), turn * 15.5)
        for turn, (acked, received) in enumerate(looks)
    ]
    assert any(found) is is_late


def test_a_request_in_flight_has_its_head() -> None:
    heads, busy = Heads(), {("127.0.0.1", "1")}
    found = [heads.late([row(1, received_bytes=20)], busy, turn * 20.0) for turn in range(4)]
    found += [heads.late([row(1, received_bytes=20)], (), 60 + turn * 20.0) for turn in range(4)]  # and no response yet
    assert not any(found)


class Server:
    """A listener with clients, all in this process; the server's side has the listener's port."""

    def __init__(self, stack: ExitStack, clients: int) -> None:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port: int = listener.getsockname()[1]
        self.clients: list[socket.socket] = []
        self.accepted: list[socket.socket] = []
        for _ in range(clients):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", self.port))
            self.clients.append(client)
            self.accepted.append(stack.enter_context(listener.accept()[0]))

    def names(self, *places: int) -> set[Client]:
        return {("127.0.0.1", str(self.clients[place].getsockname()[1])) for place in places}

    def open(self) -> list[int]:
        """The places of the clients whose connections are open."""
        ready, _, _ = select.select(self.clients, [], [], 0.2)
        return [place for place, client in enumerate(self.clients) if client not in ready]

    def refuses(self, place: int) -> bool:
        """The server can send it nothing more, and closes its side."""
        try:
            self.accepted[place].send(b"x")
        except BlockingIOError:
            return False
        except BrokenPipeError:
            self.accepted[place].close()
        return True

    def fill(self, place: int) -> None:
        """Sends until the client's and the kernel's buffers are full."""
        self.accepted[place].setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self.accepted[place].send(b"x" * 65536)


def read_all(client: socket.socket) -> None:
    while client.recv(1 << 16):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with ExitStack() as stack:
        yield Server(stack, clients=6)


def test_sees_its_connections(server: Server) -> None:
    server.clients[0].sendall(b"x")
    server.fill(1)
    rows = {one.client: one for one in look(server.port)}
    assert set(rows) == server.names(0, 1, 2, 3, 4, 5)
    full = rows[server.names(1).pop()]
    assert full.unread_bytes > 10_000
    assert full.acked_bytes > 0
    assert all(one.unread_bytes == 0 for one in rows.values() if one is not full)


def test_a_reset_leaves_nothing_in_the_kernel(server: Server) -> None:
    server.fill(1)
    stuck = [one for one in look(server.port) if one.unread_bytes]
    close(server.port, stuck, reset=True)
    server.accepted[1].close()  # as Granian does when its side has failed
    with pytest.raises(ConnectionResetError):
        read_all(server.clients[1])
    assert server.open() == [0, 2, 3, 4, 5]


def test_touches_no_connection_that_took_over_a_descriptor(server: Server) -> None:
    old = look(server.port)[0]
    close(server.port, [replace(old, client=("127.0.0.1", "1")), replace(old, descriptor=10**6)], reset=True)
    assert server.open() == [0, 1, 2, 3, 4, 5]


async def test_makes_room_when_there_are_too_many(server: Server) -> None:
    connections = ClientConnections(server.port, Room(served=4, accepted=9), stall_timeout_s=60)
    await connections.poll(100.0, (), lambda: server.names(0, 2))
    assert server.open() == [0, 2]  # so that there is room for some time
    assert not connections.full


async def test_is_full_when_all_have_requests(server: Server) -> None:
    connections = ClientConnections(server.port, Room(served=4, accepted=9), stall_timeout_s=60)
    busy = server.names(0, 1, 2, 3, 4, 5)
    await connections.poll(100.0, (), lambda: busy)
    assert connections.full
    assert server.open() == [0, 1, 2, 3, 4, 5]
    for place in (4, 5):
        server.clients[place].close()
        server.accepted[place].close()
    await connections.poll(200.0, (), lambda: busy)
    assert not connections.full


async def test_resets_stalled_clients_at_once_and_unread_responses_later(server: Server) -> None:
    connections = ClientConnections(server.port, Room(served=100, accepted=120), stall_timeout_s=8)
    for place in (1, 2):
        server.fill(place)
    await connections.poll(100.0, (), set)
    await connections.poll(100.1, server.names(1), set)
    assert server.refuses(1)
    assert not server.refuses(2)
    await connections.poll(108.3, (), set)
    assert server.refuses(2)
    assert server.open() == [0, 3, 4, 5]


async def test_closes_connections_with_half_a_head(server: Server) -> None:
    connections = ClientConnections(server.port, Room(served=100, accepted=120), stall_timeout_s=60)
    server.clients[1].sendall(b"GET / HTTP/1.1\r\n")
    await connections.poll(100.0, (), set)
    await connections.poll(120.0, (), set)
    assert server.open() == [0, 1, 2, 3, 4, 5]
    await connections.poll(131.0, (), set)
    assert server.open() == [0, 2, 3, 4, 5]


class Exhausting(ThreadPoolExecutor):
    """The descriptors are exhausted as soon as something is to be done."""

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return super().submit(*args, **kwargs)


@pytest.mark.parametrize("in_between", [True, False])
async def test_is_full_when_no_descriptor_is_free(server: Server, *, in_between: bool) -> None:
    connections = ClientConnections(server.port, Room(served=100, accepted=120), stall_timeout_s=60)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if in_between:
        asyncio.get_running_loop().set_default_executor(Exhausting(max_workers=1))
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        await connections.poll(100.0, (), set)
    finally:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert connections.full
    await connections.poll(100.1, (), set)
    assert not connections.full


# with a router


@pytest.fixture
def engine() -> Iterator[FakeUpstream]:
    with FakeUpstream() as engine:
        yield engine


@pytest.fixture
def plan(run_dir: str, engine: FakeUpstream) -> Plan:
    plan = make_plan(run_dir, [replica("chat-vllm", engine.url)], limits=replace(LIMITS, token_timeout_s=30))
    publish(plan, replica_state("chat-vllm", ReplicaStatus.READY))
    return plan


REQUEST = b'{"model": "chat", "messages": [{"role": "user", "content": "x"}], "stream": %s}'


def begin(plan: Plan, stack: ExitStack, *, stream: bool) -> socket.socket:
    """A client that has sent a request and reads nothing."""
    client = stack.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(10)
    client.connect(("127.0.0.1", plan.listen.port))
    body = REQUEST % (b"true" if stream else b"false")
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    return client


def unsent_bytes(plan: Plan) -> int:
    """In the kernel, for clients of this router."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f":{plan.listen.port:04X}"
    return sum(int(fields[4].partition(":")[0], 16) for fields in rows if fields[1].endswith(port))


@pytest.mark.parametrize("stream", [True, False])
def test_nothing_is_kept_for_a_client_that_reads_nothing(plan: Plan, engine: FakeUpstream, *, stream: bool) -> None:
    frames = [chunk(chat_frame("x" * 100_000)) for _ in range(100)]
    engine.answers(*([stream_head(), *frames, HANG] if stream else [chat_answer("x" * 10_000_000)]))
    router = RouterProcess(plan)
    try:
        router.await_answer()
        with ExitStack() as stack:
            client = begin(plan, stack, stream=stream)
            router.await_true(lambda: unsent_bytes(plan) > 100_000)
            router.await_true(lambda: unsent_bytes(plan) == 0)
            with pytest.raises(ConnectionResetError):
                read_all(client)
        assert httpx.get(f"{router.url}/v1/models").status_code == 200
        assert ("client stalled" if stream else "responses not read") in router.log
    finally:
        router.end()


@pytest.fixture
def cramped(plan: Plan) -> Iterator[RouterProcess]:
    """A router that may open 300 descriptors."""
    router = RouterProcess(plan, prefix=("bash", "-c", 'ulimit -n 300; exec "$@"', "bash"))
    try:
        router.await_answer()
        yield router
    finally:
        router.end()


def test_idle_connections_stop_nobody(cramped: RouterProcess, plan: Plan, engine: FakeUpstream) -> None:
    engine.answers(chat_answer())
    with ExitStack() as stack:
        for _ in range(4):
            for _ in range(100):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", plan.listen.port), timeout=5))
            answer = httpx.post(f"{cramped.url}/v1/chat/completions", content=REQUEST % b"false", timeout=10)
            assert answer.status_code == 200
        client.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")  # the newest is still open
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    assert "too many client connections" in cramped.log
    assert "Too many open files" not in cramped.log


def test_too_many_requests_get_a_503(cramped: RouterProcess, plan: Plan, engine: FakeUpstream) -> None:
    engine.answers(stream_head(), chunk(chat_frame("x")), HANG)
    with ExitStack() as stack:
        for client in [begin(plan, stack, stream=True) for _ in range(room(300).served + 2)]:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        cramped.await_true(lambda: "rejecting=True" in cramped.log)
        answer = httpx.post(f"{cramped.url}/v1/messages", json={"model": "chat", "messages": [], "max_tokens": 1})
        assert (answer.status_code, answer.headers["connection"], answer.headers["retry-after"]) == (503, "close", "1")
        assert answer.json()["type"] == "error"
        assert httpx.get(f"{cramped.url}/health").status_code == 200
    engine.answers(chat_answer())
    cramped.await_true(
        lambda: httpx.post(f"{cramped.url}/v1/chat/completions", content=REQUEST % b"false").status_code == 200
    )

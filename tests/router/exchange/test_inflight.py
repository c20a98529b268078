import asyncio
from collections.abc import Awaitable, Callable, Generator

import pytest
from starlette.types import Message

from berth.errors import RequestTimeoutError
from berth.router.exchange.inflight import InflightRequest, InflightRequests, StopReason, read_body
from berth.router.exchange.memory_budget import MemoryBudget
from tests.fakes.guarded import guarded
from tests.fakes.router import LIMITS

pytestmark = pytest.mark.anyio


class Client:
    """The client's side of an ASGI connection."""

    def __init__(self, *left: Message) -> None:
        self.left = list(left)  # of its request, still to be received
        self.sent: list[Message] = []
        self.leaves = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()

    async def receive(self) -> Message:
        if self.left:
            return self.left.pop(0)
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)


async def fly(
    client: Client,
    work: Callable[[InflightRequest], Awaitable[None]],
    flights: InflightRequests,
    address: tuple[str, str] | None = None,
) -> InflightRequest:
    flight = flights.begin(client.receive, client.send, address)
    try:
        flights.body_read(flight)
        await guarded(flight, wait_for(work(flight)))
    finally:
        flights.end(flight)
    return flight


async def wait_for(work: Awaitable[None]) -> None:
    await work


def never(_flight: InflightRequest) -> Awaitable[None]:
    return asyncio.get_running_loop().create_future()


def sends(flight: InflightRequest) -> Awaitable[None]:
    return flight.send({"type": "http.response.body"})


async def look_after(flights: InflightRequests, times: int = 1) -> None:
    """As the worker does, long after the flights have begun."""
    async with asyncio.TaskGroup() as group:
        for _ in range(times):
            flights.watch_long_running(group, asyncio.get_running_loop().time() + 1)
            await asyncio.sleep(0)


async def test_guard_returns_when_the_work_ends() -> None:
    client, flights = Client(), InflightRequests()

    flight = await fly(client, sends, flights)

    assert (flight.stopped, flight.started, len(client.sent), len(flights)) == (None, True, 1, 0)


async def test_disconnect_cancels_the_work() -> None:
    client, flights = Client(), InflightRequests()
    task = asyncio.ensure_future(fly(client, never, flights))
    await asyncio.sleep(0)
    client.leaves.set()

    await look_after(flights)

    flight = await task
    assert (flight.stopped, flight.started) == (StopReason.GONE, False)


@pytest.mark.parametrize("reason", StopReason)
async def test_nothing_stops_a_request_after_its_whole_response(reason: StopReason) -> None:
    """Many clients close the connection with the last byte: that is no response that was broken off."""
    client, flights, engine_ends = Client(), InflightRequests(), asyncio.Event()

    async def work(flight: InflightRequest) -> None:
        await sends(flight)
        flight.complete = True
        await engine_ends.wait()

    task = asyncio.ensure_future(fly(client, work, flights))
    await asyncio.sleep(0)
    if reason is StopReason.GONE:
        client.leaves.set()
        await look_after(flights)
    else:
        flights.stop_all(reason)
    await asyncio.sleep(0)
    assert not task.done()

    engine_ends.set()
    assert (await task).stopped is None


async def test_empty_end_of_a_body_is_no_disconnect() -> None:
    client, flights = Client({"type": "http.request", "body": b"", "more_body": False}), InflightRequests()
    task = asyncio.ensure_future(fly(client, never, flights))
    await asyncio.sleep(0)
    async with asyncio.TaskGroup() as group:
        flights.watch_long_running(group, asyncio.get_running_loop().time() + 1)
        await asyncio.sleep(0.01)
        assert (client.left, task.done()) == ([], False)
        client.leaves.set()

    assert (await task).stopped is StopReason.GONE


async def test_request_that_lasts_is_watched_without_being_polled() -> None:
    client, flights = Client(), InflightRequests()
    client.leaves.set()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        flights.watch_in(group)
        tasks = [asyncio.ensure_future(fly(client, never, flights))]
        await asyncio.sleep(0.03)  # the second is too young when the first is looked at
        tasks.append(asyncio.ensure_future(fly(client, never, flights)))
        stopped = [(await task).stopped for task in tasks]

    assert stopped == [StopReason.GONE, StopReason.GONE]


async def test_young_request_is_not_watched() -> None:
    client, flights = Client(), InflightRequests()
    task = asyncio.ensure_future(fly(client, never, flights))
    await asyncio.sleep(0)
    client.leaves.set()
    async with asyncio.TaskGroup() as group:
        flights.watch_long_running(group, asyncio.get_running_loop().time())
    assert not task.done()

    await look_after(flights)

    assert (await task).stopped is StopReason.GONE


async def test_finished_request_is_not_watched() -> None:
    client, flights = Client(), InflightRequests()
    client.reads.clear()
    task = asyncio.ensure_future(fly(client, sends, flights))
    await asyncio.sleep(0)
    async with asyncio.TaskGroup() as group:  # it ends, so no watcher is left
        flights.watch_long_running(group, asyncio.get_running_loop().time() + 1)
        client.reads.set()
        await task

    assert (await task).stopped is None


async def test_request_that_ends_young_is_removed() -> None:
    client, flights = Client(), InflightRequests()
    await fly(client, sends, flights)
    client.leaves.set()

    await look_after(flights)

    assert len(flights) == 0


async def test_failing_connection_ends_only_its_own_request(caplog: pytest.LogCaptureFixture) -> None:
    async def receive() -> Message:
        raise OSError("broken")

    client, flights = Client(), InflightRequests()
    client.receive = receive  # type: ignore[method-assign] # that is the fault
    task = asyncio.ensure_future(fly(client, never, flights))
    await asyncio.sleep(0)

    await look_after(flights)  # would raise what its tasks raise

    assert (await task).stopped is StopReason.GONE
    assert "client connection failed" in caplog.text


async def test_stops_request_of_client_that_reads_nothing() -> None:
    client, flights = Client(), InflightRequests()
    client.reads.clear()
    task = asyncio.ensure_future(fly(client, sends, flights))
    await asyncio.sleep(0)
    now = asyncio.get_running_loop().time()

    flights.stop_stalled(now + 50, 60)
    assert len(flights) == 1
    flights.stop_stalled(now + 61, 60)

    assert (await task).stopped is StopReason.STALLED


@pytest.mark.parametrize("is_shared", [True, False])
async def test_connection_that_carries_another_request_stays(is_shared: bool) -> None:
    silent, other, flights = Client(), Client(), InflightRequests()
    silent.reads.clear()
    address = ("127.0.0.1", "1")
    stalled = asyncio.ensure_future(fly(silent, sends, flights, address))
    healthy = asyncio.ensure_future(fly(other, never, flights, address if is_shared else ("127.0.0.1", "2")))
    await asyncio.sleep(0)

    useless = flights.stop_stalled(asyncio.get_running_loop().time() + 61, 60)

    assert useless == (set() if is_shared else {address})
    assert (await stalled).stopped is StopReason.STALLED
    assert len(flights) == 1
    flights.stop_all(StopReason.DRAIN)
    await healthy


async def test_stops_request_of_client_that_sends_nothing() -> None:
    client, flights = Client(), InflightRequests()
    task = asyncio.ensure_future(fly(client, receives, flights))
    await asyncio.sleep(0)

    flights.stop_stalled(asyncio.get_running_loop().time() + 61, 60)

    assert (await task).stopped is StopReason.STALLED


async def receives(flight: InflightRequest) -> None:
    with pytest.raises(RequestTimeoutError, match="no data for 1 s after 0 bytes"):
        await read_body({}, flight, LIMITS, MemoryBudget(1 << 20))


async def test_received_body_ends_the_wait_for_the_client() -> None:
    client, flights = Client({"type": "http.request", "body": b"xyz"}), InflightRequests()
    flight = flights.begin(client.receive, client.send)

    assert await read_body({}, flight, LIMITS, MemoryBudget(1 << 20)) == b"xyz"

    assert not flight.stalled(asyncio.get_running_loop().time() + 61, 60)


async def test_sent_message_is_not_awaited() -> None:
    class PyEmptyAwaitable:
        """Granian's, of which only the name is known."""

        def __await__(self) -> Generator[None, None, None]:
            raise AssertionError("not awaited")

    taken: list[Message] = []

    def send(message: Message) -> Awaitable[None]:
        taken.append(message)
        return PyEmptyAwaitable()

    flight = InflightRequests().begin(Client().receive, send)

    await flight.send({"type": "http.response.body"})

    assert (flight.push({"type": "x"}), len(taken)) == (None, 2)


async def test_stop_all_keeps_the_first_reason() -> None:
    client, flights = Client(), InflightRequests()
    task = asyncio.ensure_future(fly(client, never, flights))
    await asyncio.sleep(0)

    flights.stop_all(StopReason.DRAIN)
    flights.stop_all(StopReason.STALLED)

    assert (await task).stopped is StopReason.DRAIN


async def test_other_cancellations_propagate() -> None:
    client, flights = Client(), InflightRequests()
    task = asyncio.ensure_future(fly(client, never, flights))
    await asyncio.sleep(0)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(flights) == 0


async def test_stopped_request_can_still_send() -> None:
    client, flights = Client(), InflightRequests()
    task = asyncio.ensure_future(fly(client, never, flights))
    await asyncio.sleep(0)
    flights.stop_all(StopReason.DRAIN)

    await (await task).send({"type": "http.response.body"})

    assert len(client.sent) == 1

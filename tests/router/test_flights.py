import asyncio
from collections.abc import Callable

import pytest
from starlette.types import Message

from berth.router.flights import Flight, Flights, StopReason

pytestmark = pytest.mark.anyio


class Client:
    """The client's side of an ASGI connection."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.leaves = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()

    async def receive(self) -> Message:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)


async def fly(client: Client, work: Callable[[Flight], asyncio.Future[None]], flights: Flights) -> Flight:
    with flights.flight(client.send) as flight:
        await flight.guard(client.receive, wait_for(work(flight)))
    return flight


async def wait_for(future: "asyncio.Future[None]") -> None:
    await future


def never(_flight: Flight) -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()


def sends(flight: Flight) -> "asyncio.Future[None]":
    return asyncio.ensure_future(flight.send({"type": "http.response.body"}))


async def test_work_that_ends_ends_the_watch() -> None:
    client, flights = Client(), Flights()

    flight = await fly(client, sends, flights)

    assert (flight.stopped, flight.started, len(client.sent), len(flights)) == (None, True, 1, 0)


async def test_a_client_that_leaves_cancels_the_work() -> None:
    client, flights = Client(), Flights()
    client.leaves.set()

    flight = await fly(client, never, flights)

    assert (flight.stopped, flight.started) == (StopReason.GONE, False)


async def test_a_client_that_takes_nothing_is_stopped() -> None:
    client, flights = Client(), Flights()
    client.reads.clear()
    task = asyncio.ensure_future(fly(client, sends, flights))
    await asyncio.sleep(0.05)

    flights.stop_stalled(60)
    assert len(flights) == 1
    flights.stop_stalled(0.01)

    assert (await task).stopped is StopReason.STALLED


async def test_all_can_be_stopped_and_the_first_reason_counts() -> None:
    client, flights = Client(), Flights()
    task = asyncio.ensure_future(fly(client, never, flights))
    await asyncio.sleep(0)

    flights.stop_all(StopReason.DRAIN)
    flights.stop_all(StopReason.STALLED)

    assert (await task).stopped is StopReason.DRAIN


async def test_a_cancellation_from_elsewhere_goes_on() -> None:
    client, flights = Client(), Flights()
    task = asyncio.ensure_future(fly(client, never, flights))
    await asyncio.sleep(0)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(flights) == 0


async def test_a_stopped_flight_can_still_send() -> None:
    client, flights = Client(), Flights()
    client.leaves.set()

    with flights.flight(client.send) as flight:
        await flight.guard(client.receive, wait_for(never(flight)))
        await flight.send({"type": "http.response.body"})

    assert len(client.sent) == 1

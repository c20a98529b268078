import asyncio
import gzip
from collections.abc import Sequence
from dataclasses import replace

import pytest
from starlette.types import Message

from berth.errors import (
    ApiError,
    InvalidRequestError,
    NotReadyError,
    OverloadedError,
    RequestTimeoutError,
    TooLargeError,
)
from berth.router.exchange.inflight import LEAST_BYTES_PER_S, InflightRequest, InflightRequests, StopReason, read_body
from berth.router.exchange.memory_budget import UNCOUNTED_BYTES, MemoryBudget
from tests.fakes.guarded import guarded
from tests.fakes.router import LIMITS

pytestmark = pytest.mark.anyio

TEN_BYTES = replace(LIMITS, max_body_bytes=10)
PLENTY = MemoryBudget(1 << 30)


async def never_sends(message: Message) -> None:
    raise AssertionError(f"nothing may be sent: {message}")


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


class Client:
    """Sends these messages, and nothing after them."""

    def __init__(self, *messages: Message) -> None:
        self._messages = list(messages)

    async def receive(self) -> Message:
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop(0)


async def received(*messages: Message) -> bytes:
    return await read_body({}, InflightRequests().begin(Client(*messages).receive, never_sends), TEN_BYTES, PLENTY)


async def test_reads_a_body_in_parts() -> None:
    assert await received(part(b"ab"), part(b""), part(b"cd", more=False)) == b"abcd"


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        ({b"content-length": b"4"}, 1),
        ({b"content-length": b"4", b"transfer-encoding": b"chunked"}, 0),
        ({b"content-length": b"5"}, 0),
        ({}, 0),
    ],
)
async def test_does_not_wait_for_the_empty_end_of_a_known_length(headers: dict[bytes, bytes], left: int) -> None:
    messages = [part(b"ab"), part(b"cd"), part(b"", more=False)]

    async def receive() -> Message:
        return messages.pop(0)

    request = InflightRequests().begin(receive, never_sends)
    body = await read_body(headers, request, TEN_BYTES, PLENTY)

    assert (body, len(messages), request.receiving) == (b"abcd", left, False)


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([part(b"x" * 6), part(b"x" * 6)], TooLargeError),
        ([part(b"x"), {"type": "http.disconnect"}], InvalidRequestError),
    ],
)
async def test_rejects_large_or_incomplete_body(messages: list[Message], error: type[Exception]) -> None:
    with pytest.raises(error):
        await received(*messages)


@pytest.mark.parametrize(
    ("length", "error"), [(b"11", TooLargeError), (b"1" * 9000, TooLargeError), (b"ten", InvalidRequestError)]
)
async def test_checks_content_length_first(length: bytes, error: type[ApiError]) -> None:
    async def receive() -> Message:
        raise AssertionError("nothing may be read")

    with pytest.raises(error):
        await read_body({b"content-length": length}, InflightRequests().begin(receive, never_sends), TEN_BYTES, PLENTY)


@pytest.mark.parametrize(
    ("messages", "held"),
    [
        ([part(b"x" * UNCOUNTED_BYTES, more=False)], 0),
        ([part(b"x" * UNCOUNTED_BYTES + b"x", more=False)], UNCOUNTED_BYTES + 1),
        ([part(b"x" * UNCOUNTED_BYTES), part(b"xyz")], UNCOUNTED_BYTES + 3),
    ],
)
async def test_counts_what_it_holds_until_the_request_ends(messages: Sequence[Message], held: int) -> None:
    memory = MemoryBudget(1 << 20)
    flights = InflightRequests(memory)
    flight = flights.begin(Client(*messages).receive, never_sends)
    reading = asyncio.ensure_future(read_body({}, flight, LIMITS, memory))
    for _ in range(5):
        await asyncio.sleep(0)
    assert memory.used_bytes == held

    reading.cancel()
    flights.end(flight)
    assert memory.used_bytes == 0


async def test_an_encoded_body_counts_as_it_is_decoded() -> None:
    text = bytes(3 << 20)
    headers, message = {b"content-encoding": b"gzip"}, part(gzip.compress(text), more=False)
    limits, memory = replace(LIMITS, max_body_bytes=4 << 20), MemoryBudget(4 << 20)
    flights = InflightRequests(memory)
    first, second = (flights.begin(Client(message).receive, never_sends) for _ in range(2))

    assert await read_body(headers, first, limits, memory) == text
    assert memory.used_bytes == len(text)

    with pytest.raises(OverloadedError):  # 4 KiB, for which there is no room once they are decoded
        await read_body(headers, second, limits, memory)
    flights.end(second)
    assert memory.used_bytes == len(text)


async def test_rejects_what_does_not_fit_into_the_memory() -> None:
    memory = MemoryBudget(UNCOUNTED_BYTES + 5)
    flights = InflightRequests(memory)
    flight = flights.begin(Client(part(b"x" * (UNCOUNTED_BYTES + 4)), part(b"xxxx")).receive, never_sends)

    with pytest.raises(OverloadedError) as caught:
        await read_body({}, flight, LIMITS, memory)

    assert (memory.used_bytes, caught.value.retry_after_s) == (UNCOUNTED_BYTES + 4, 1.0)


async def late(received_bytes: int, seconds: float) -> bool:
    """Whether a body is given up after so many bytes and seconds, with some bytes just now."""
    flights = InflightRequests()
    flight = flights.begin(Client(part(b"x" * received_bytes)).receive, never_sends)
    flight.since -= seconds
    reading = asyncio.ensure_future(read_body({}, flight, LIMITS, PLENTY))
    for _ in range(3):
        await asyncio.sleep(0)
    found = flight.stalled(asyncio.get_running_loop().time(), 60)
    reading.cancel()
    return found


@pytest.mark.parametrize(
    ("received_bytes", "seconds", "given_up"),
    [(1, 59, False), (1, 61, True), (10 * LEAST_BYTES_PER_S, 69, False), (10 * LEAST_BYTES_PER_S, 71, True)],
)
async def test_a_body_has_a_time_by_its_bytes(received_bytes: int, seconds: float, given_up: bool) -> None:
    assert await late(received_bytes, seconds) is given_up


async def test_time_is_for_the_body_only() -> None:
    flight = InflightRequests().begin(Client(part(b"x", more=False)).receive, never_sends)
    await read_body({}, flight, LIMITS, PLENTY)
    assert not flight.stalled(asyncio.get_running_loop().time() + 1000, 60)


@pytest.mark.parametrize(("age_s", "reason"), [(0, "no data for 1 s after 3 bytes"), (90, "only 3 bytes in 9")])
async def test_the_client_is_told_why_its_body_was_given_up(age_s: float, reason: str) -> None:
    flights = InflightRequests()

    async def serve() -> None:
        flight = flights.begin(Client(part(b"xyz")).receive, never_sends)
        flight.since -= age_s
        await guarded(flight, read(flight))

    async def read(flight: object) -> None:
        with pytest.raises(RequestTimeoutError, match=reason):
            await read_body({}, flight, LIMITS, PLENTY)  # type: ignore[arg-type] # it is one

    task = asyncio.ensure_future(serve())
    await asyncio.sleep(0.01)
    flights.stop_stalled(asyncio.get_running_loop().time() + 2, LIMITS.client_stall_timeout_s)
    await task


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (StopReason.STALLED, RequestTimeoutError),
        (StopReason.DRAIN, NotReadyError),
        (StopReason.REPLACED, NotReadyError),
    ],
)
@pytest.mark.parametrize(
    ("headers", "message"), [({}, part(b"xyz")), ({b"content-encoding": b"gzip"}, part(gzip.compress(bytes(4 << 20))))]
)
async def test_a_body_can_be_stopped_while_it_comes_and_while_it_is_decoded(
    headers: dict[bytes, bytes], message: Message, reason: StopReason, error: type[ApiError]
) -> None:
    flights = InflightRequests()
    large = replace(LIMITS, max_body_bytes=8 << 20)

    async def serve() -> None:
        flight = flights.begin(Client(message).receive, never_sends)
        assert await guarded(flight, read(flight))

    async def read(flight: InflightRequest) -> None:
        with pytest.raises(error):
            await read_body(headers, flight, large, PLENTY)

    task = asyncio.ensure_future(serve())
    for _ in range(3):
        await asyncio.sleep(0)
    flights.stop_all(reason)
    await task

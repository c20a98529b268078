import asyncio
from collections.abc import Awaitable, Generator

import pytest
from starlette.types import Message

from berth.apis.base import StreamEncoder
from berth.apis.openai.passthrough import OpenaiStream
from berth.canonical import Failure, FailureKind, Transcript
from berth.dialects.base import StreamDecoder
from berth.router.balancing.upstreams import Upstream
from berth.router.exchange.inflight import InflightRequest, InflightRequests
from berth.router.forwarding import stream
from berth.router.forwarding.stream import (
    FLUSH_S,
    PIECE_BYTES,
    FlushRounds,
    NoContentError,
    StreamForwarder,
    is_opening,
)
from berth.router.upstream.connection import BrokenResponseError, ResponseTimeoutError
from berth.router.upstream.pool import Pool
from berth.sse import DONE, comment
from tests.fakes.router import replica
from tests.fakes.upstream import (
    CLOSE,
    HANG,
    LAST_CHUNK,
    FakeUpstream,
    Step,
    chat_frame,
    chunk,
    json_answer,
    sse,
    stream_head,
)

pytestmark = pytest.mark.anyio

UPSTREAM = Upstream(replica("chat-a", "http://127.0.0.1:1"), None)
FAILURE = Failure(kind=FailureKind.ENGINE, status=502, message="boom")
PLAIN = OpenaiStream()
COMMENT, BEAT = comment("x"), PLAIN.heartbeat("waiting for the engine")
A, B, FAIL = (chat_frame(text) for text in ("a", "b", "fail"))


class Decoder(StreamDecoder):
    """Passes frames on, fails at those with "fail", and finds every end right."""

    def frame(self, frame: bytes) -> bytes | Failure:
        self.mute += frame == COMMENT
        return FAILURE if b"fail" in frame else frame

    def end(self) -> Failure | None:
        return None

    def keep(self) -> None:
        raise AssertionError("nobody wants to know")

    def transcript(self) -> Transcript:
        raise AssertionError("nobody wants to know")


class Taken:
    def __await__(self) -> Generator[None, None, None]:
        raise AssertionError("not awaited")


Taken.__name__ = "PyEmptyAwaitable"  # Granian's class, of which only the name is known


class Client:
    """Takes what is sent at once, or when `reads` is set."""

    def __init__(self, *, reads: bool = True) -> None:
        self.frames: list[bytes] = []
        self.reads = asyncio.Event()
        if reads:
            self.reads.set()

    def send(self, message: Message) -> Awaitable[None]:
        self.frames.append(message["body"])
        return Taken() if self.reads.is_set() else self._wait()

    async def _wait(self) -> None:
        await self.reads.wait()

    def flight(self) -> InflightRequest:
        async def receive() -> Message:
            raise AssertionError("nobody asks")

        return InflightRequests().begin(receive, self.send)


async def pumped(
    client: Client, *steps: Step, timeout_s: float = 2, encoder: StreamEncoder = PLAIN
) -> tuple[Failure | None, bytes]:
    """What the pump says of a stream, and what is left to send with its end."""
    with FakeUpstream() as engine:
        engine.answers(stream_head(), *steps)
        pool = Pool(engine.url)
        connection = await pool.request("/v1/x", b"{}", {}, 2)
        pump = StreamForwarder(Decoder(), UPSTREAM, connection, client.flight(), FlushRounds(), encoder=encoder)
        try:
            return await pump.run(timeout_s), pump.last
        finally:
            connection.close()
            pool.close()


@pytest.mark.parametrize(
    ("steps", "failure", "frames"),
    [
        pytest.param((chunk(A), chunk(B), chunk(DONE), LAST_CHUNK), None, A + B + DONE, id="whole"),
        pytest.param((chunk(A), LAST_CHUNK), None, A + DONE, id="no [DONE]"),
        pytest.param((chunk(A + FAIL + B), HANG), FAILURE, A, id="an error inside"),
        pytest.param((chunk(A + DONE), HANG), None, A + DONE, id="all at once"),
    ],
)
async def test_stream_is_forwarded(steps: tuple[Step, ...], failure: Failure | None, frames: bytes) -> None:
    client = Client()

    found, last = await pumped(client, *steps)

    assert (found, b"".join(client.frames) + last) == (failure, frames)


async def test_other_requests_have_a_turn_while_much_is_forwarded() -> None:
    client, many = Client(), 1 + 3 * PIECE_BYTES // len(A)

    found, last = await pumped(client, chunk(A * many), chunk(DONE), LAST_CHUNK)

    assert (found, b"".join(client.frames) + last) == (None, A * many + DONE)
    assert len(client.frames) >= 3
    assert max(map(len, client.frames)) <= PIECE_BYTES + len(A)


async def test_much_is_forwarded_before_the_end_without_done() -> None:
    client, many = Client(), 1 + 3 * PIECE_BYTES // len(A)

    found, last = await pumped(client, chunk(A * many), LAST_CHUNK)

    assert (found, b"".join(client.frames) + last) == (None, A * many + DONE)


async def test_cut_stream_raises() -> None:
    client = Client()

    with pytest.raises(BrokenResponseError):
        await pumped(client, chunk(A), CLOSE)

    assert client.frames == [A]


async def test_full_client_pauses_reading_from_the_engine() -> None:
    client = Client(reads=False)
    steps = [chunk(A), *(chunk(B) for _ in range(50)), chunk(DONE), LAST_CHUNK]
    task = asyncio.ensure_future(pumped(client, *steps))
    async with asyncio.timeout(5):
        while not client.frames:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
    assert len(client.frames) == 1

    client.reads.set()

    failure, last = await task
    assert (failure, b"".join(client.frames) + last) == (None, A + 50 * B + DONE)


async def test_full_client_gets_the_frames_before_a_failure() -> None:
    client = Client(reads=False)
    task = asyncio.ensure_future(pumped(client, chunk(A + FAIL), HANG))
    async with asyncio.timeout(5):
        while not client.frames:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)

    client.reads.set()

    assert await task == (FAILURE, b"")


async def test_late_flush_takes_nothing_of_the_next_request() -> None:
    """The end of the answer comes as a piece of its own, and its round when the connection has a new request."""
    client, rounds = Client(), FlushRounds()
    with FakeUpstream() as engine:
        engine.answers(stream_head(), chunk(A), chunk(DONE), 0.001, LAST_CHUNK)
        pool = Pool(engine.url)
        connection = await pool.request("/v1/x", b"{}", {}, 2)
        pump = StreamForwarder(Decoder(), UPSTREAM, connection, client.flight(), rounds, encoder=PLAIN)
        assert await pump.run(2) is None
        engine.answers(json_answer({"of": "somebody else"}))
        await connection.read(2)
        pool.release(connection)
        again = await pool.request("/v1/x", b"{}", {}, 2)
        while not again.complete:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.001)

        pump._forward()

        assert again is connection
        assert await again.read_all(2, 1000) == b'{"of":"somebody else"}'
        pool.close()


async def test_internal_error_ends_only_its_own_stream() -> None:
    class Faulty(Decoder):
        def feed(self, chunk: bytes) -> bytes:
            if b"fail" in chunk:
                raise ZeroDivisionError
            return super().feed(chunk)

    rounds, moved = FlushRounds(), list[int]()
    with FakeUpstream() as engine:
        engine.answers(stream_head(), chunk(A), 0.05, chunk(FAIL), HANG)
        pool = Pool(engine.url)
        connection = await pool.request("/v1/x", b"{}", {}, 2)
        pump = StreamForwarder(Faulty(), UPSTREAM, connection, Client().flight(), rounds, encoder=PLAIN)
        task = asyncio.ensure_future(pump.run(2))
        await asyncio.sleep(0)
        rounds.join(lambda: moved.append(1))
        with pytest.raises(ZeroDivisionError):
            await task
        rounds.join(lambda: moved.append(2))
        await asyncio.sleep(2 * FLUSH_S)
        connection.close()
        pool.close()

    assert moved == [1, 2]


async def test_full_client_does_not_count_as_silence_of_the_engine() -> None:
    client = Client(reads=False)
    task = asyncio.ensure_future(pumped(client, chunk(A), 0.05, chunk(B), HANG, timeout_s=0.2))
    await asyncio.sleep(0.5)
    assert not task.done()

    client.reads.set()

    with pytest.raises(ResponseTimeoutError):
        await task
    assert client.frames == [A, B]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TICK_S", 0.05)


class Holding(OpenaiStream):
    """Holds everything back until the end."""

    plain = False

    def feed(self, frames: bytes) -> bytes:
        return frames if frames.endswith(DONE) else b""


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    ("steps", "encoder", "first"),
    [
        pytest.param((chunk(A), 0.3), PLAIN, [A], id="silent engine"),
        pytest.param((chunk(A), 0.1, chunk(B), 0.1, chunk(B), 0.1), Holding(), [], id="frames held back"),
    ],
)
async def test_client_that_gets_nothing_gets_heartbeats(
    steps: tuple[Step, ...], encoder: OpenaiStream, first: list[bytes]
) -> None:
    client = Client()

    assert await pumped(client, *steps, chunk(DONE), LAST_CHUNK, encoder=encoder) == (None, DONE)

    assert client.frames[: len(first)] == first
    assert len(client.frames) >= len(first) + 2
    assert set(client.frames[len(first) :]) == {BEAT}


@pytest.mark.usefixtures("often")
async def test_client_that_is_served_or_full_gets_no_heartbeats() -> None:
    served, full = Client(), Client(reads=False)
    steps = [step for _ in range(20) for step in (chunk(A), 0.01)]
    task = asyncio.ensure_future(pumped(full, chunk(A), 0.3, chunk(DONE), LAST_CHUNK))

    await pumped(served, *steps, chunk(DONE), LAST_CHUNK)
    await asyncio.sleep(0.2)
    full.reads.set()
    await task

    assert (set(served.frames), full.frames) == ({A}, [A])


@pytest.mark.usefixtures("often")
async def test_client_that_is_full_of_heartbeats_gets_no_more() -> None:
    client = Client()
    task = asyncio.ensure_future(pumped(client, chunk(A), 0.5, chunk(B), chunk(DONE), LAST_CHUNK))
    await asyncio.sleep(0.02)
    client.reads.clear()
    await asyncio.sleep(0.6)
    assert client.frames.count(BEAT) == 1

    client.reads.set()
    failure, last = await task

    assert failure is None
    assert b"".join(one for one in client.frames if one != BEAT) + last == A + B + DONE


class Faulty(OpenaiStream):
    def heartbeat(self, text: str) -> bytes:
        raise ZeroDivisionError(text)


@pytest.mark.usefixtures("often")
async def test_heartbeat_that_fails_ends_its_stream() -> None:
    with pytest.raises(ZeroDivisionError):
        await pumped(Client(), chunk(A), HANG, encoder=Faulty())


@pytest.mark.usefixtures("often")
async def test_frames_that_say_nothing_are_silence() -> None:
    client = Client()
    steps = [step for _ in range(200) for step in (chunk(COMMENT), 0.02)]

    with pytest.raises(NoContentError, match="frames without content"):
        await pumped(client, chunk(A), *steps, HANG, timeout_s=0.3)

    assert 2 < client.frames.count(COMMENT) < 100


async def test_first_flush_is_immediate_and_others_are_batched() -> None:
    rounds, moved = FlushRounds(), list[int]()
    for number in range(4):
        rounds.join(lambda number=number: moved.append(number))  # type: ignore[misc] # bound early

    assert moved == [0]
    async with asyncio.timeout(5):
        while len(moved) < 4:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(FLUSH_S)
    assert moved == [0, 1, 2, 3]


def choice(**fields: object) -> dict[str, object]:
    return {"choices": [fields]}


@pytest.mark.parametrize(
    ("frame", "opening"),
    [
        (chat_frame(role=True), True),
        (chat_frame(""), True),
        (b": heartbeat\n\n", True),
        (sse(choice(delta={"role": "assistant", "content": None, "tool_calls": []})), True),
        (sse(choice(index=0, text="", finish_reason=None)), True),
        (sse({"choices": [], "usage": {}}), True),
        (chat_frame("a"), False),
        (chat_frame(finish="stop"), False),
        (sse(choice(delta={"reasoning": "hm"})), False),
        (sse(choice(delta={"tool_calls": [{"index": 0}]})), False),
        (sse(choice(text="a")), False),
        (sse({"choices": ["odd"]}), False),
        (sse({"choices": "odd"}), False),
        (sse(["odd"]), False),
        (b"data: [DONE]\n\n", False),
    ],
)
def test_openings_are_frames_without_content(frame: bytes, opening: bool) -> None:
    assert is_opening(frame) is opening

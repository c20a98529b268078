import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from berth.router.upstream import pool as pool_module
from berth.router.upstream.connection import (
    BrokenResponseError,
    ConnectFailedError,
    Connection,
    PreemptedError,
    ResponseTimeoutError,
    ResponseTooLongError,
    UpstreamFailureError,
)
from berth.router.upstream.pool import Pool
from tests.fakes.ports import free_port
from tests.fakes.upstream import (
    CLOSE,
    HANG,
    LAST_CHUNK,
    RESET,
    FakeUpstream,
    Step,
    answer,
    chunk,
    json_answer,
    stream_head,
)

pytestmark = pytest.mark.anyio

MOST = 64 << 20


@pytest.fixture
def engine() -> Iterator[FakeUpstream]:
    with FakeUpstream() as engine:
        yield engine


@pytest.fixture
async def pool(engine: FakeUpstream) -> AsyncIterator[Pool]:
    pool = Pool(engine.url)
    yield pool
    pool.close()


async def ask(pool: Pool, body: bytes = b"{}", timeout_s: float = 2) -> Connection:
    return await pool.request("/v1/x", body, {}, timeout_s)


async def exchange(pool: Pool, timeout_s: float = 2) -> tuple[int, bytes]:
    """One whole request and answer."""
    connection = await ask(pool, timeout_s=timeout_s)
    try:
        return connection.status, await connection.read_all(timeout_s, MOST)
    finally:
        pool.release(connection)


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not check():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)


async def test_writes_request_as_http(engine: FakeUpstream) -> None:
    pool = Pool(f"{engine.url}/prefix", key="secret")

    pool.release(await pool.request("/v1/x", b'{"a":1}', {"x-request-id": "7"}, 2))

    request = engine.requests[0]
    assert (request.method, request.path, request.body) == ("POST", "/prefix/v1/x", b'{"a":1}')
    assert request.headers["host"] == f"127.0.0.1:{engine.port}"
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["x-request-id"] == "7"
    assert request.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("api_path", "path"), [("", "/prefix/x"), ("/v3", "/prefix/v3/x"), ("/v1", "/prefix/v1/x")])
async def test_api_may_be_elsewhere(engine: FakeUpstream, api_path: str, path: str) -> None:
    pool = Pool(f"{engine.url}/prefix", api_path=api_path)

    pool.release(await ask(pool))
    pool.release(await pool.request("/tokenize", b"{}", {}, 2))

    assert [request.path for request in engine.requests] == [path, "/prefix/tokenize"]


async def test_sends_large_body(engine: FakeUpstream, pool: Pool) -> None:
    body = bytes(range(256)) * 10_000

    pool.release(await ask(pool, body, timeout_s=5))

    assert engine.requests[0].body == body


@pytest.mark.parametrize(
    ("steps", "body"),
    [
        pytest.param((answer(b"hello"),), b"hello", id="with a length"),
        pytest.param((answer(b""),), b"", id="empty"),
        pytest.param((stream_head(), chunk(b"hel"), chunk(b"lo"), LAST_CHUNK), b"hello", id="chunked"),
        pytest.param((b"HTTP/1.1 200 OK\r\n\r\n", b"hello", CLOSE), b"hello", id="until the end of the connection"),
        pytest.param((b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n", answer(b"hello")), b"hello", id="after 100 Continue"),
        pytest.param(tuple(answer(b"hello")[i : i + 1] for i in range(85)), b"hello", id="byte by byte"),
        pytest.param((b"HTTP/1.1 204 No Content\r\n\r\n",), b"", id="no content"),
    ],
)
async def test_reads_all_response_framings(
    engine: FakeUpstream, pool: Pool, steps: tuple[Step, ...], body: bytes
) -> None:
    engine.answers(*steps)

    assert (await exchange(pool))[1] == body


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((RESET,), id="reset"),
        pytest.param((CLOSE,), id="closed"),
        pytest.param((b"HTTP/1.1 200 OK\r\n", CLOSE), id="cut in the head"),
        pytest.param((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", CLOSE), id="shorter than announced"),
        pytest.param((stream_head(), chunk(b"hello"), CLOSE), id="no last chunk"),
        pytest.param((stream_head(), b"5\r\nhel", RESET), id="reset in a chunk"),
        pytest.param((stream_head(), b"zz\r\n"), id="not a chunk"),
        pytest.param((b"SSH-2.0-OpenSSH\r\n",), id="not HTTP"),
        pytest.param((b"HTTP/1.1 200 OK\r\n\r\nhel", RESET), id="reset where only the end tells the length"),
    ],
)
async def test_cut_response_is_an_error(engine: FakeUpstream, pool: Pool, steps: tuple[Step, ...]) -> None:
    engine.answers(*steps)

    with pytest.raises(BrokenResponseError):
        await exchange(pool)

    assert len(engine.requests) == 1


async def test_data_before_a_cut_is_readable(engine: FakeUpstream, pool: Pool) -> None:
    engine.answers(stream_head(), chunk(b"hello"), RESET)
    connection = await ask(pool)

    assert await connection.read(2) == b"hello"
    with pytest.raises(BrokenResponseError, match="in the middle of the response"):
        await connection.read(2)


async def test_connection_is_reused(engine: FakeUpstream, pool: Pool) -> None:
    for _ in range(3):
        await exchange(pool)

    assert (len(engine.requests), engine.connections) == (3, 1)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((answer(b"x", headers="connection: close\r\n"),), id="connection: close"),
        pytest.param((b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx",), id="HTTP/1.0"),
        pytest.param((answer(b"x") + b"more",), id="more than announced"),
        pytest.param((answer(b"x") + answer(b"y"),), id="an answer too many"),
        pytest.param((answer(b"x"), CLOSE), id="closed after the answer"),
    ],
)
async def test_unusable_connection_is_not_reused(engine: FakeUpstream, pool: Pool, steps: tuple[Step, ...]) -> None:
    engine.answers(*steps)

    assert (await exchange(pool))[1] == b"x"
    assert (await exchange(pool))[1] == b"x"

    assert engine.connections == 2


async def test_connection_with_unread_response_is_closed(engine: FakeUpstream, pool: Pool) -> None:
    engine.answers(stream_head(), chunk(b"hello"), HANG)
    connection = await ask(pool)
    await connection.read(2)

    pool.release(connection)

    assert await asyncio.to_thread(engine.left.wait, 5)


async def test_resends_request_after_idle_connection_was_closed(engine: FakeUpstream, pool: Pool) -> None:
    await exchange(pool)
    engine.answers_once(CLOSE)  # as if it had closed the connection before it read the request

    assert await exchange(pool) == (200, b'{"ok":true}')

    assert (len(engine.requests), engine.connections) == (3, 2)


async def test_does_not_resend_after_partial_response(engine: FakeUpstream, pool: Pool) -> None:
    await exchange(pool)
    engine.answers_once(b"HTTP/1.1 ", RESET)

    with pytest.raises(BrokenResponseError):
        await exchange(pool)

    assert len(engine.requests) == 2


async def test_closed_idle_connections_are_removed() -> None:
    with FakeUpstream(idle_s=0.05) as engine:
        pool = Pool(engine.url)
        await exchange(pool)
        await until(lambda: not pool._idle)

        assert await exchange(pool) == (200, b'{"ok":true}')
        pool.close()


async def test_idle_connections_are_closed_before_engines_do(
    engine: FakeUpstream, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "IDLE_S", 0)
    await exchange(pool)
    await exchange(pool)

    assert engine.connections == 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://nowhere.invalid", "http://" + "x" * 70])
async def test_refused_connection_has_its_own_error(url: str) -> None:
    with pytest.raises(ConnectFailedError):
        await exchange(Pool(url.format(port=free_port())))


async def test_connects_to_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "engine.sock")
    with FakeUpstream(socket_path=path) as engine:
        engine.answers(json_answer({"a": 1}))
        pool = Pool(engine.url, key="secret")
        assert [await exchange(pool) for _ in range(2)] == [(200, b'{"a":1}')] * 2
        pool.close()

    assert engine.connections == 1
    assert (engine.requests[0].path, engine.requests[0].headers["host"]) == ("/v1/x", "localhost")


@pytest.mark.parametrize("made", [False, True])
async def test_unix_socket_without_listener_is_a_connect_error(tmp_path: Path, made: bool) -> None:
    path = tmp_path / "engine.sock"
    if made:
        path.touch()

    with pytest.raises(ConnectFailedError, match="no connection"):
        await exchange(Pool(f"unix:{path}"))


async def test_connect_timeout(engine: FakeUpstream) -> None:
    pool = Pool(f"https://127.0.0.1:{engine.port}", connect_timeout_s=0.05)  # it waits for HTTP, and we for TLS

    with pytest.raises(ConnectFailedError, match=r"in 0\.05 s"):
        await exchange(pool)


@pytest.mark.parametrize("steps", [(HANG,), (stream_head(), HANG), (stream_head(), chunk(b"x"), HANG)])
async def test_silent_engine_times_out(engine: FakeUpstream, pool: Pool, steps: tuple[Step, ...]) -> None:
    engine.answers(*steps)

    with pytest.raises(ResponseTimeoutError):
        await exchange(pool, timeout_s=0.1)

    assert await asyncio.to_thread(engine.left.wait, 5)


async def test_timeout_counts_from_the_last_bytes(engine: FakeUpstream, pool: Pool) -> None:
    engine.answers(stream_head(), *(step for _ in range(5) for step in (0.1, chunk(b"x"))), LAST_CHUNK)
    connection = await ask(pool)

    parts = [await connection.read(0.3) for _ in range(5)]

    assert b"".join(parts) == b"xxxxx"
    pool.release(connection)


async def test_shorter_timeout_replaces_a_longer_one(engine: FakeUpstream, pool: Pool) -> None:
    engine.answers(stream_head(), HANG)
    connection = await ask(pool, timeout_s=60)

    with pytest.raises(ResponseTimeoutError):
        await connection.read(0.05)
    pool.release(connection)


async def test_slow_reader_pauses_the_engine(engine: FakeUpstream, pool: Pool) -> None:
    piece = chunk(bytes(1 << 20))
    engine.answers(stream_head(), *([piece] * 40), LAST_CHUNK)
    connection = await ask(pool)
    await until(lambda: connection._paused)

    assert connection._heard - connection._taken < 4 << 20
    assert len(await connection.read_all(10, MOST)) == 40 << 20
    pool.release(connection)


async def test_cancelled_request_closes_its_connection(engine: FakeUpstream, pool: Pool) -> None:
    engine.answers(HANG)
    task = asyncio.ensure_future(ask(pool))
    await asyncio.to_thread(engine.arrived.wait, 5)

    task.cancel()

    assert await asyncio.to_thread(engine.left.wait, 5)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closed_connection_rejects_requests(pool: Pool) -> None:
    connection = await ask(pool)
    connection.close()

    with pytest.raises(UpstreamFailureError, match="is closed"):
        connection.send(b"", b"")
    assert not connection.usable


async def test_what_comes_after_the_end_is_not_looked_at(pool: Pool) -> None:
    connection = await ask(pool)
    connection.close()

    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\n")

    assert not connection.usable


async def test_a_connection_at_rest_on_which_much_comes_is_given_up(engine: FakeUpstream, pool: Pool) -> None:
    engine.answers(json_answer({"a": 1}), 0.05, *[b"HTTP/1.1 100 Continue\r\n\r\n" * 1000] * 10, HANG)
    await exchange(pool)

    await until(lambda: not pool._idle)


@pytest.mark.parametrize("known", [True, False])
async def test_an_answer_may_be_as_long_as_is_allowed(engine: FakeUpstream, pool: Pool, *, known: bool) -> None:
    body = bytes(3_000_000)
    engine.answers(answer(body) if known else b"HTTP/1.1 200 OK\r\n\r\n" + body, CLOSE)
    for most_bytes in (3_000_000, 2_999_999, 2_000_000):
        connection = await ask(pool)
        if most_bytes == 3_000_000:
            assert await connection.read_all(2, most_bytes) == body
        elif known or most_bytes == 2_000_000:
            with pytest.raises(ResponseTooLongError, match=r"longer than \d MiB"):
                await connection.read_all(2, most_bytes)
        pool.release(connection)


async def test_trailers_are_no_headers(engine: FakeUpstream, pool: Pool) -> None:
    engine.answers(stream_head(), chunk(b"hello"), b"0\r\ncontent-type: x\r\n\r\n")
    connection = await ask(pool)

    assert await connection.read_all(2, MOST) == b"hello"
    assert connection.headers[b"content-type"].startswith(b"text/event-stream")
    pool.release(connection)


async def test_json_helpers_agree_with_the_client(engine: FakeUpstream, pool: Pool) -> None:
    engine.answers(json_answer({"a": [1]}, status=418))

    assert await exchange(pool) == (418, b'{"a":[1]}')


async def test_preempted_exchanges_fail_and_what_has_come_can_be_taken(engine: FakeUpstream, pool: Pool) -> None:
    engine.answers(stream_head(), chunk(b"some"), HANG)
    connection = await ask(pool)
    assert await connection.read(60) == b"some"
    waiting = asyncio.ensure_future(connection.read(60))
    engine.answers(HANG)
    headless = asyncio.ensure_future(ask(pool, timeout_s=60))
    await until(lambda: len(engine.requests) == 2)

    pool.preempt()

    for one in (waiting, headless):
        with pytest.raises(PreemptedError, match="made room for another model"):
            await one
    pool.release(connection)
    pool.preempt()


async def test_whole_response_is_not_preempted(engine: FakeUpstream, pool: Pool) -> None:
    connection = await ask(pool)
    await until(lambda: connection.complete)

    pool.preempt()

    assert await connection.read_all(60, MOST)
    pool.release(connection)
    await exchange(pool)
    assert engine.connections == 1

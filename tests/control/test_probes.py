"""Probes over a socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.probes import LONGEST_ANSWER_BYTES, Health, Prober, after_probe
from berth.plan import Probe
from tests.control.harness import free_port
from tests.fakes.plans import make_replica

pytestmark = pytest.mark.anyio
PROBE = Probe(path="/health", timeout_s=0.3)


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that gives everybody the same answer; None: none, ever."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], requests


def reply(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply("200 OK"), ""),
        (reply("204 No Content"), ""),
        (reply("503 Service Unavailable"), "/health answered 503"),
        (reply("301 Moved"), "/health answered 301"),
        (b"garbage\r\n\r\n", "/health: RemoteProtocolError: "),
        (b"", "/health: RemoteProtocolError: "),
        (None, "/health did not answer within 0.3 s"),
    ],
    ids=["200", "204", "503", "301", "no HTTP", "closed", "silent"],
)
async def test_any_2xx_is_yes(answer: bytes | None, error: str) -> None:
    async with answering(answer) as (port, _), Prober() as prober:
        said = await prober.ask(make_replica(launch=None, port=port), PROBE)
    assert said.startswith(error)
    assert bool(said) == bool(error)


async def test_nobody_there_is_no() -> None:
    port = free_port()
    async with Prober() as prober:
        said = await prober.ask(make_replica(launch=None, port=port), PROBE)
    assert said.startswith(f"http://127.0.0.1:{port} takes no connection: ")


async def test_a_url_that_is_none_is_no() -> None:
    async with Prober() as prober:
        said = await prober.ask(replace(make_replica(launch=None), url="http://\x01"), PROBE)
    assert said.startswith("/health: InvalidURL")


async def test_the_key_of_an_attached_server_is_sent_to_it_alone() -> None:
    async with answering(reply("200 OK")) as (port, requests), Prober({"far": "s3cret"}) as prober:
        far = replace(make_replica("far", launch=None, port=port), url=f"http://127.0.0.1:{port}/base/")
        await prober.ask(far, Probe(path="/health", method="POST"))
        await prober.ask(make_replica("near", launch=None, port=port), PROBE)
    assert requests[0].startswith(b"POST /base/health ")
    assert b"authorization: Bearer s3cret\r\n" in requests[0].lower().replace(b"bearer", b"Bearer")
    assert b"authorization" not in requests[1].lower()


async def test_an_answer_without_end_is_no() -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(LONGEST_ANSWER_BYTES + 1)
    async with answering(endless) as (port, _), Prober() as prober:
        replica = make_replica(launch=None, port=port)
        said = await prober.ask(replica, Probe(path="/health", timeout_s=5))
        assert await prober.sleeps(replica, "/is_sleeping") is None
    assert said == "/health answered more than 4 MiB"


async def test_an_answer_is_not_unpacked() -> None:
    packed = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 7\r\n\r\ngarbage"
    async with answering(packed) as (port, requests), Prober() as prober:
        assert await prober.ask(make_replica(launch=None, port=port), PROBE) == ""
    assert b"accept-encoding: identity" in requests[0].lower()


def test_failures_in_a_row_are_counted() -> None:
    health = Health()
    for error in ("x", "", "y", "z"):
        health = after_probe(health, error)
    assert health == Health(answered=False, ever=True, failures=2, error="z")
    assert after_probe(health, "") == Health(answered=True, ever=True)


async def test_an_engine_behind_a_socket_is_asked_there(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    replica = replace(make_replica(launch=None), url=f"unix:{path}")
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(reply("200 OK"))
        writer.close()

    async with Prober() as prober:
        nobody = await prober.ask(replica, PROBE)
        async with await asyncio.start_unix_server(serve, path):
            said = [await prober.ask(replica, PROBE), await prober.tell(replica, "/sleep", {}, 1)]
    assert nobody.startswith(f"unix:{path} takes no connection: ")
    assert said == ["", ""]
    assert [request.partition(b" HTTP")[0] for request in requests] == [b"GET /health", b"POST /sleep"]

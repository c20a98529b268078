"""HTTP requests to engines, over a socket."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.probes import MAX_RESPONSE_BYTES, Health, Prober, after_probe
from berth.plan import Probe
from tests.fakes import certificates
from tests.fakes.plans import make_replica
from tests.fakes.ports import free_port

pytestmark = pytest.mark.anyio
PROBE = Probe(path="/health", timeout_s=0.3)


@asynccontextmanager
async def responding(
    response: bytes | None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that sends the same response to every request. None: it never responds."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        if response is None:
            await reader.read()
        else:
            writer.write(response)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], requests


def reply(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (reply("200 OK"), ""),
        (reply("204 No Content"), ""),
        (reply("503 Service Unavailable"), "/health returned 503"),
        (reply("301 Moved"), "/health returned 301"),
        (b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nx", "/health: RemoteProtocolError: "),
        (b"HTTP/1.1 101 X\r\n\r\n", "/health"),
        (b"HTTP/1.1 103 X\r\n\r\n", "/health: RemoteProtocolError: "),
        (b"HTTP/1.1 304 X\r\n\r\n", "/health returned 304"),
        (reply("000 X"), "/health: RemoteProtocolError: "),
        (reply("999 X"), "/health"),
        (b"garbage\r\n\r\n", "/health: RemoteProtocolError: "),
        (b"", "/health: RemoteProtocolError: "),
        (None, "/health timed out after 0.3 s"),
    ],
    ids=["200", "204", "503", "301", "101", "101 alone", "103", "304", "000", "999", "no HTTP", "closed", "silent"],
)
async def test_any_2xx_is_a_success(response: bytes | None, error: str) -> None:
    async with responding(response) as (port, _), Prober() as prober:
        result = await prober.probe(make_replica(launch=None, port=port), PROBE)
    assert result.startswith(error)
    assert bool(result) == bool(error)


async def test_refused_connection_is_an_error() -> None:
    port = free_port()
    async with Prober() as prober:
        error = await prober.probe(make_replica(launch=None, port=port), PROBE)
    assert error.startswith(f"cannot connect to http://127.0.0.1:{port}: ")


@pytest.mark.parametrize("scheme", ["https", "HTTPS"])
async def test_certificate_of_an_unknown_authority_is_an_error(tmp_path: Path, scheme: str) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificates.make(tmp_path))
    async with responding(reply("200 OK"), tls) as (port, requests), Prober() as prober:
        replica = replace(make_replica(launch=None, port=port), url=f"{scheme}://127.0.0.1:{port}")
        error = await prober.probe(replica, replace(PROBE, timeout_s=5))
    assert "CERTIFICATE_VERIFY_FAILED" in error
    assert requests == []


async def test_invalid_url_is_an_error() -> None:
    async with Prober() as prober:
        error = await prober.probe(replace(make_replica(launch=None), url="http://\x01"), PROBE)
    assert error.startswith("/health: InvalidURL")


async def test_sends_the_key_only_to_its_attached_server() -> None:
    async with responding(reply("200 OK")) as (port, requests), Prober({"far": "s3cret"}) as prober:
        far = replace(make_replica("far", launch=None, port=port), url=f"http://127.0.0.1:{port}/base/")
        await prober.probe(far, Probe(path="/health", method="POST"))
        await prober.probe(make_replica("near", launch=None, port=port), PROBE)
    assert requests[0].startswith(b"POST /base/health ")
    assert b"authorization: Bearer s3cret\r\n" in requests[0].lower().replace(b"bearer", b"Bearer")
    assert b"authorization" not in requests[1].lower()


async def test_endless_response_is_an_error() -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(MAX_RESPONSE_BYTES + 1)
    async with responding(endless) as (port, _), Prober() as prober:
        replica = make_replica(launch=None, port=port)
        error = await prober.probe(replica, Probe(path="/health", timeout_s=5))
        assert await prober.is_sleeping(replica, "/is_sleeping") is None
    assert error == "/health returned more than 4 MiB"


async def test_responses_are_not_decompressed() -> None:
    packed = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 7\r\n\r\ngarbage"
    async with responding(packed) as (port, requests), Prober() as prober:
        assert await prober.probe(make_replica(launch=None, port=port), PROBE) == ""
    assert b"accept-encoding: identity" in requests[0].lower()


def test_counts_consecutive_failures() -> None:
    health = Health()
    for error in ("x", "", "y", "z"):
        health = after_probe(health, error)
    assert health == Health(ok=False, ever_ok=True, failures=2, error="z")
    assert after_probe(health, "") == Health(ok=True, ever_ok=True)


async def test_probes_an_engine_behind_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    replica = replace(make_replica(launch=None), url=f"unix:{path}")
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(reply("200 OK"))
        writer.close()

    async with Prober() as prober:
        unanswered = await prober.probe(replica, PROBE)
        async with await asyncio.start_unix_server(serve, path):
            results = [await prober.probe(replica, PROBE), await prober.post(replica, "/sleep", {}, 1)]
    assert unanswered.startswith(f"cannot connect to unix:{path}: ")
    assert results == ["", ""]
    assert [request.partition(b" HTTP")[0] for request in requests] == [b"GET /health", b"POST /sleep"]

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.sim.engine import Engine
from berth.sim.server import Server, serving
from tests.sim.harness import CHAT, Client, get, options, running, send_request


def rejected(port: int) -> bool:
    try:
        Client(port).socket.close()
    except ConnectionRefusedError:
        return True
    return False


def test_refuse_rejects_connections_until_cleared() -> None:
    with running(admin_port=0) as server:
        assert server.admin_port is not None
        assert get(server.admin_port, "/health").status == 404
        with Client(server.port) as inside:
            send_request(server.admin_port, "/sim/faults", {"refuse": True})
            assert rejected(server.port)
            inside.send("GET", "/version")
            assert inside.read().status == 200
        send_request(server.admin_port, "/sim/faults", method="DELETE")
        until(lambda: not rejected(server.port))
        assert get(server.port, "/version").status == 200


def test_refuse_can_have_a_duration() -> None:
    with running() as server:
        send_request(server.port, "/sim/faults", {"refuse": "600ms"})
        assert rejected(server.port)
        until(lambda: not rejected(server.port))
        assert get(server.port, "/sim/faults").json["on"] == {}


def test_refuse_applies_from_the_start() -> None:
    with running("vllm", "refuse=10s") as server:
        assert rejected(server.port)


def test_logs_if_the_port_cannot_be_reopened(capfd: pytest.CaptureFixture[str]) -> None:
    with running(admin_port=0) as server:
        assert server.admin_port is not None
        send_request(server.admin_port, "/sim/faults", {"refuse": True})
        with running(port=server.port):
            send_request(server.admin_port, "/sim/faults", {"refuse": False})
            until(lambda: "cannot reopen port" in capfd.readouterr().err)


def test_log_noise_continues_until_cleared(capfd: pytest.CaptureFixture[str]) -> None:
    with running("vllm", "log-noise=200") as server:
        until(lambda: "noise noise" in capfd.readouterr().err)
        send_request(server.port, "/sim/faults", {"null": True})
        send_request(server.port, "/sim/faults", method="DELETE")
        until(lambda: server._noise is None)


@pytest.mark.anyio
async def test_two_engines_share_an_event_loop() -> None:
    async with serving(options()) as one, serving(options("trtllm")) as other:
        found = await asyncio.to_thread(
            lambda: [send_request(port, body=CHAT).status for port in (one.port, other.port)]
        )
    assert found == [200, 200]


@pytest.mark.anyio
async def test_close_does_not_wait_for_a_stalled_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth.sim.server._CLOSE_TIMEOUT_S", 0.1)
    async with serving(options(context=2_000_000)) as server:
        client = await asyncio.to_thread(Client, server.port)
        client.send("POST", "/v1/chat/completions", {**CHAT, "ignore_eos": True, "max_tokens": 1_500_000})
        await asyncio.to_thread(client.socket.recv, 1, socket.MSG_PEEK)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    with client, pytest.raises(ConnectionResetError):
        read_all(client)


def test_engine_stops_during_log_noise() -> None:
    with running("vllm", "log-noise") as server:
        until(lambda: server._noise is not None)


@pytest.mark.anyio
async def test_listens_on_a_unix_socket_as_vllm_does(tmp_path: Path) -> None:
    path = str(tmp_path / "engine.sock")
    for _ in range(2):  # a socket that was left is replaced
        async with serving(options(uds=path)):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
            await writer.wait_closed()


@pytest.mark.anyio
async def test_close_releases_an_unused_port() -> None:
    async with asyncio.TaskGroup() as tasks:
        server = Server(Engine(options()), tasks)
        server.bind(listen=False)
        await server.close()
    socket.create_server(("127.0.0.1", server.port)).close()


def read_all(client: Client) -> None:
    while client.socket.recv(1 << 20):
        pass


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline

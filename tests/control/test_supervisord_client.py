"""XML-RPC with a real supervisord, and with broken servers."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from berth.control.supervisord_client import Process, ProcessState, SupervisordClient, identity
from berth.errors import ControlError
from tests.control.harness import appliance, engine, plan_of

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]  # many processes start here, on busy machines too


class Closing(SupervisordClient):
    async def aclose(self) -> None:
        self.close()


@asynccontextmanager
async def server(path: Path, response: bytes) -> AsyncIterator[SupervisordClient]:
    """A server that sends the same bytes to every connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"</methodCall>")
        writer.write(response)
        if not response:
            await reader.read()
        writer.close()

    async with (
        await asyncio.start_unix_server(serve, path),
        aclosing(Closing(path, timeout_s=0.3)) as supervisord,
    ):
        yield supervisord


async def test_starts_lists_and_stops_a_process(tmp_path: Path) -> None:
    async with (
        appliance(plan_of(tmp_path, engine(tmp_path, "chat-a"))) as box,
        aclosing(Closing(box.plan.paths.supervisord_socket)) as supervisord,
    ):
        before = await supervisord.snapshot()
        await supervisord.start("chat-a")
        await supervisord.start("chat-a")  # runs already
        running = (await supervisord.snapshot()).processes["chat-a"]
        os.kill(running.pid or 0, signal.SIGKILL)
        dead = running
        async with asyncio.timeout(20):
            while dead.alive:
                dead = (await supervisord.snapshot()).processes["chat-a"]
        await supervisord.stop("chat-a")  # runs no more
        killer, unknown = await supervisord.last_signal("chat-a"), await supervisord.last_signal("chat")
    assert before.supervisord.startswith(f"{box.supervisord.pid} ")
    assert before.processes == {"chat-a": Process(state=ProcessState.STOPPED)}
    assert running.alive
    assert (killer, unknown) == ("SIGKILL", "")
    assert dead == Process(state=ProcessState.EXITED, exit_code=-1, spawn_error=dead.spawn_error)


async def test_bench_is_started_once_the_one_before_has_ended(tmp_path: Path) -> None:
    async with (
        appliance(plan_of(tmp_path, engine(tmp_path, "chat-a"))) as box,
        aclosing(Closing(box.plan.paths.supervisord_socket)) as supervisord,
    ):
        started = [await supervisord.start_bench(), await supervisord.start_bench()]
        async with asyncio.timeout(60):  # it has nothing to measure
            while not await supervisord.start_bench():
                pass
    assert started == [True, False]


async def test_unknown_process_name_is_an_error(tmp_path: Path) -> None:
    async with (
        appliance(plan_of(tmp_path, engine(tmp_path, "chat-a"))) as box,
        aclosing(Closing(box.plan.paths.supervisord_socket)) as supervisord,
    ):
        with pytest.raises(ControlError, match="supervisord did not start 'chat-x': BAD_NAME"):
            await supervisord.start("chat-x")


async def test_missing_socket_is_an_error(tmp_path: Path) -> None:
    supervisord = SupervisordClient(tmp_path / "none.sock")
    with pytest.raises(ControlError, match=r"none\.sock' does not respond"):
        await supervisord.snapshot()
    supervisord.close()


FAULT = (
    b"<?xml version='1.0'?><methodResponse><fault><value><struct><member><name>faultCode</name><value><int>%d</int>"
    b"</value></member><member><name>faultString</name><value><string>NO</string></value></member></struct></value>"
    b"</fault></methodResponse>"
)


def response_of(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "response",
    [b"", b"garbage\r\n\r\n", response_of(b"", b"500 Oops"), response_of(b"no xml"), response_of(FAULT % 30)],
    ids=["silence", "no HTTP", "500", "no XML", "fault"],
)
async def test_invalid_responses_are_errors(tmp_path: Path, response: bytes) -> None:
    async with server(tmp_path / "s.sock", response) as supervisord:
        with pytest.raises(ControlError, match="supervisord"):
            await supervisord.snapshot()


async def test_shutdown_of_supervisord_is_recognized(tmp_path: Path) -> None:
    async with server(tmp_path / "s.sock", response_of(FAULT % 6)) as supervisord:
        snapshot = await supervisord.snapshot()
    assert snapshot.shutting_down
    assert snapshot.processes == {}


def test_identity_includes_the_start_time() -> None:
    assert identity(os.getpid()) == identity(os.getpid()) != identity(os.getppid())
    assert identity(2**30) == f"{2**30} unknown"


async def test_cancelled_call_leaves_no_connection(tmp_path: Path) -> None:
    """It continues in its thread, and connects after the close."""
    began, go, left = threading.Event(), threading.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"</methodCall>")
        writer.write(response_of(FAULT % 30))
        await reader.read()
        left.set()
        writer.close()

    def call() -> object:
        began.set()
        go.wait(20)
        return supervisord._proxy.supervisor.getPID()

    async with await asyncio.start_unix_server(serve, tmp_path / "s.sock"):
        supervisord = SupervisordClient(tmp_path / "s.sock")
        task = asyncio.ensure_future(supervisord._call("look", call))
        await asyncio.to_thread(began.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        supervisord.close()
        go.set()
        await asyncio.wait_for(left.wait(), 20)

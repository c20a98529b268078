"""`control.sock`: requests of the CLI and of the router's /admin, answered between two steps of the control loop."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from berth.ipc.control_socket import MOST_BYTES
from berth.ipc.operations import Denial, DenialCode, Reply, Request
from berth.log import log

RETRY_S: Final = 5.0
_MASK: Final = 0o177


async def serve(path: Path, answer: Callable[[Request], Awaitable[Reply]], *, retry_s: float = RETRY_S) -> None:
    """Until it is cancelled. The socket is for the user of control only."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                writer.write(msgspec.json.encode(await answered(line, answer)) + b"\n")
                await writer.drain()
        except (OSError, ValueError):  # the client is gone, or its line is too long
            pass
        finally:
            writer.close()

    while True:
        try:
            server = await asyncio.start_unix_server(connected, sock=bound_socket(path), limit=MOST_BYTES)
        except OSError as error:
            log.error("control socket unavailable", path=str(path), error=str(error), retry_in_s=retry_s)
            await asyncio.sleep(retry_s)
            continue
        try:
            await server.serve_forever()
        finally:
            server.close()


def bound_socket(path: Path) -> socket.socket:
    """No other user can connect to it, not even between its creation and a chmod."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX)
    before = os.umask(_MASK)
    try:
        bound.bind(os.fspath(path))
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(before)
    return bound


async def answered(line: bytes, answer: Callable[[Request], Awaitable[Reply]]) -> Reply:
    try:
        request = msgspec.json.decode(line, type=Request)
    except ValueError as error:
        return Reply(denial=Denial(code=DenialCode.INVALID, message=f"Not a request that this Berth reads: {error}"))
    return await answer(request)

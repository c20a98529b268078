"""The client of control's socket, for `berth load ...` and the router's /admin."""

import asyncio
import os
from pathlib import Path
from typing import Final

import msgspec

from berth.errors import ControlError
from berth.ipc.operations import Reply, Request
from berth.ipc.revising import LONGEST_S

MOST_BYTES: Final = 8 << 20  # of a line
TIMEOUT_S: Final = 10.0
_RETRY_S: Final = 0.2


async def ask(path: Path, request: Request, *, timeout_s: float | None = None) -> Reply:
    """ControlError when control does not respond in time. A control that is just being restarted is waited for."""
    deadline = asyncio.get_running_loop().time() + (timeout_s or longest_s(request))
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                return await _ask(path, request)
        except (OSError, EOFError, ValueError) as error:  # TimeoutError is an OSError
            if asyncio.get_running_loop().time() + _RETRY_S >= deadline or not path.parent.is_dir():
                reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                advice = "See `berth status`, and the container's log"
                raise ControlError(f"Control does not respond at {str(path)!r}: {reason}. {advice}") from error
        await asyncio.sleep(_RETRY_S)


def longest_s(request: Request) -> float:
    """Until a healthy control has answered. A migration is planned first, maybe with what a hub says of its source."""
    is_planned = request.change is not None and request.change.migrate is not None
    return TIMEOUT_S + LONGEST_S if is_planned else TIMEOUT_S


async def _ask(path: Path, request: Request) -> Reply:
    reader, writer = await asyncio.open_unix_connection(os.fspath(path), limit=MOST_BYTES)
    try:
        writer.write(msgspec.json.encode(request) + b"\n")
        await writer.drain()
        line = await reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the connection was closed")
        return msgspec.json.decode(line, type=Reply)
    finally:
        writer.close()

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
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (TIMEOUT_S if timeout_s is None else timeout_s)
    while True:
        try:
            async with asyncio.timeout_at(deadline) as timeout:
                return await _ask(path, request, timeout)
        except (OSError, EOFError, ValueError) as error:  # TimeoutError is an OSError
            if loop.time() + _RETRY_S >= deadline or not path.parent.is_dir():
                reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                advice = "See `berth status`, and the container's log"
                raise ControlError(f"Control does not respond at {str(path)!r}: {reason}. {advice}") from error
        await asyncio.sleep(_RETRY_S)


async def _ask(path: Path, request: Request, timeout: asyncio.Timeout) -> Reply:
    """Once control has a migration, it plans it, maybe with what a hub says of its source, before it answers."""
    reader, writer = await asyncio.open_unix_connection(os.fspath(path), limit=MOST_BYTES)
    try:
        writer.write(msgspec.json.encode(request) + b"\n")
        await writer.drain()
        if request.change is not None and request.change.migrate is not None:
            timeout.reschedule((timeout.when() or 0.0) + LONGEST_S)
        line = await reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the connection was closed")
        return msgspec.json.decode(line, type=Reply)
    finally:
        writer.close()

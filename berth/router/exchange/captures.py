"""What a router worker captures, while an operator wants it; see berth.ipc.capture."""

import asyncio
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Final

from starlette.types import Scope, Send

from berth.ipc.capture import Capture, CaptureAction, CaptureRequest, Exchange, Message
from berth.ipc.control_socket import ask
from berth.ipc.journal import BROKEN
from berth.ipc.key_poll import KeyPoll
from berth.ipc.operations import Request
from berth.log import log
from berth.redaction import Redactor
from berth.router.exchange.auth import key_in
from berth.router.exchange.recording import Recording
from berth.router.exchange.request import RequestContext

ROOM_BYTES: Final = 32 << 20  # of a worker, for requests that are being captured or wait for control
MOST_WAITING: Final = 100
_UNREAD: Final = Message(line="")  # until its messages are put into text


class Captures:
    """Of one worker. `current` is None while there is nothing to capture: then nothing here is called."""

    current: Capture | None = None  # the worker takes it from the State

    def __init__(self, control_socket: Path, keys: KeyPoll) -> None:
        self._path = control_socket
        self._keys = keys
        self.room_bytes = ROOM_BYTES
        self._waiting: deque[tuple[Recording, Exchange, str]] = deque()
        self._new = asyncio.Event()

    def begin(self, scope: Scope, send: Send) -> Recording | None:
        """None when the time is over: control may be gone."""
        if self.current is None or time.time() >= self.current.ends:
            return None
        return Recording(scope, send, self.take)

    def take(self, wanted: int) -> int:
        """How many bytes a recording may keep."""
        given = min(wanted, self.room_bytes)
        self.room_bytes -= given
        return given

    def end(self, recording: Recording, ctx: RequestContext) -> None:
        """The request is over: it is handed to control if it is one of those that are wanted."""
        wanted, duration_s = self.current, time.monotonic() - recording.since
        failed = bool(ctx.flags & BROKEN or ctx.error_code)
        if (
            wanted is None
            or len(self._waiting) >= MOST_WAITING
            or not (wanted.model in ("", ctx.model) and wanted.key in ("", ctx.key.name))
            or not wanted.wants(status=ctx.status, failed=failed, duration_s=duration_s)
        ):
            self.room_bytes += recording.held_bytes
            return
        exchange = Exchange(
            id=ctx.request_id,
            at=recording.at,
            duration_s=round(duration_s, 6),
            model=ctx.model,
            key=ctx.key.name,
            status=ctx.status,
            failures=tuple(f"{one.replica}: {one.outcome}: {one.failure.message}" for one in ctx.failures),
            request=_UNREAD,
        )
        self._waiting.append((recording, exchange, key_in(ctx.headers).decode("latin-1")))
        self._new.set()

    async def run(self) -> None:
        """Hands to control what was captured, until it is cancelled."""
        while True:
            await self._new.wait()
            self._new.clear()
            while self._waiting:
                recording, exchange, key = self._waiting.popleft()
                try:
                    keys = self._keys.current
                    redactor = Redactor([*keys.secrets(), key], keys.digests())
                    whole = await asyncio.to_thread(completed, exchange, recording, redactor)
                    added = CaptureRequest(action=CaptureAction.ADD, exchange=whole)
                    await ask(self._path, Request(capture=added))
                except Exception as error:  # noqa: BLE001 - the boundary of a capture: the worker continues
                    log.warning("captured request lost", request=exchange.id, reason=str(error))
                finally:
                    self.room_bytes += recording.held_bytes


def completed(exchange: Exchange, recording: Recording, redactor: Redactor) -> Exchange:
    """With its messages, without secrets."""
    request, response, attempts = recording.messages(redactor)
    failures = tuple(redactor.text(text) for text in exchange.failures)
    return replace(exchange, request=request, response=response, attempts=attempts, failures=failures)

"""Control's lease on a model: its engines run one at a time, as this program says, and serve no clients.

It is renewed all the time. A program that dies loses it within seconds, and control loads the model again.
"""

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from berth.errors import BerthError, ControlError
from berth.ipc.control_socket import ask
from berth.ipc.operations import LEASE_S, Action, Change, Renewal, Reply, Request, Step

POLL_S: Final = 0.2
_RENEW_S: Final = LEASE_S / 6
_FAILED: Final = ("failed", "stopped")


class DeniedError(BerthError):
    """Control does not give the lease, or it has ended."""

    exit_code = 4


class StartError(BerthError):
    """An engine does not start."""

    exit_code = 1


class Lease:
    def __init__(self, socket: Path, operation: str, who: str) -> None:
        self._socket = socket
        self.id = operation
        self.key = secrets.token_hex(32)  # the router lets it alone use the replica; control only sees its digest
        self.progress = ""  # for people, with each renewal
        self._who = who
        self._replica = ""

    async def run(self, replica: str, timeout_s: float, progress: Callable[[Step], None]) -> float:
        """Until it runs alone, or nothing does (""). The seconds that it took. StartError, DeniedError."""
        self._replica, began = replica, time.monotonic()
        while steps := (await self.renew()).steps:
            own = next((step for step in steps if step.replica == replica), steps[0])
            progress(own)
            if own.replica == replica and own.status in _FAILED:
                raise StartError(f"{replica} does not start. `berth status` and `berth logs {replica}` say why.")
            if time.monotonic() - began > timeout_s:
                raise StartError(f"{replica or 'the model'} is {own.status} after {timeout_s:.0f} s.")
            await asyncio.sleep(POLL_S)
        return time.monotonic() - began

    async def renew(self, *, ends: bool = False, failure: str = "") -> Reply:
        replica = "" if ends else self._replica
        renewal = Renewal(
            operation=self.id,
            replica=replica,
            ends=ends,
            failure=failure,
            progress=self.progress,
            key_digest=hashlib.sha256(self.key.encode()).hexdigest(),
        )
        reply = await ask(self._socket, Request(renew=renewal, who=self._who))
        if reply.denial is not None:
            raise DeniedError(f"the lease is over: {reply.denial.message}")
        return reply

    async def keep(self) -> None:
        """Until it is cancelled. DeniedError when somebody has ended it."""
        while True:
            await asyncio.sleep(_RENEW_S)
            await self.renew()

    async def restored(self, timeout_s: float) -> None:
        """The lease has ended, and nothing is in progress for the model any more."""
        ends = time.monotonic() + timeout_s
        while time.monotonic() < ends:
            operations = (await ask(self._socket, Request())).operations
            own = next((one for one in operations if one.id == self.id), None)
            model = own.model if own else ""
            ours = (one for one in operations if one.id == self.id or one.action is not Action.LEASE)
            if not any(one.running and one.model == model for one in ours):
                return
            await asyncio.sleep(POLL_S)


async def taken(socket: Path, model: str, who: str, drain_s: float) -> str:
    """The id of a new lease. DeniedError."""
    change = Change(action=Action.LEASE, model=model, by=who, drain_s=drain_s)
    reply = await ask(socket, Request(change=change, who=who))
    if reply.denial is not None or reply.operation is None:
        message = reply.denial.message if reply.denial else "no reply"
        raise DeniedError(f"{model!r} cannot be measured now: {message}")
    return reply.operation.id


@asynccontextmanager
async def held(socket: Path, operation: str, who: str, restore_s: float) -> AsyncIterator[Lease]:
    """Ends it at the end, whatever happens, and waits until the model is what it was. DeniedError."""
    lease, failure = Lease(socket, operation, who), ""
    try:
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(lease.keep())
            yield lease
            keeper.cancel()
    except BaseExceptionGroup as errors:
        failure = str(errors.exceptions[0]) or type(errors.exceptions[0]).__name__
        raise errors.exceptions[0] from None
    finally:
        with contextlib.suppress(DeniedError, ControlError):  # it has ended, or ends by itself
            await lease.renew(ends=True, failure=failure)
        await lease.restored(restore_s)

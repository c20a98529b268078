"""The control socket: one JSON document per line, for the same user only."""

import asyncio
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from berth.control.operations.server import serve
from berth.errors import ControlError
from berth.ipc.control_socket import ask
from berth.ipc.migration import Options
from berth.ipc.operations import Action, Change, DenialCode, Operation, Reply, Request

pytestmark = pytest.mark.anyio


async def answer(request: Request) -> Reply:
    change = request.change or Change(action=Action.PIN)
    return Reply(operation=Operation(id="1", action=change.action, model=change.model, created_at=1.0))


Answer = Callable[[Request], Awaitable[Reply]]


@asynccontextmanager
async def serving(path: Path, answers: Answer = answer) -> AsyncIterator[None]:
    task = asyncio.ensure_future(serve(path, answers, retry_s=0.1))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_answers_and_waits_for_a_control_that_starts(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    asking = asyncio.ensure_future(ask(path, Request(change=Change(action=Action.LOAD, model="m"))))
    await asyncio.sleep(0.3)
    async with serving(path):
        reply = await asking
        assert reply.operation is not None
        assert (reply.operation.action, reply.operation.model) == (Action.LOAD, "m")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_migration_is_waited_for_while_control_plans_it(tmp_path: Path) -> None:
    """Once control has it: a control that is not there is not waited for any longer than for another request."""
    path, migrate = tmp_path / "control.sock", Change(action=Action.MIGRATE, migrate=Options(source="org/other"))
    with pytest.raises(ControlError, match="does not respond"):
        async with asyncio.timeout(5):
            await ask(path, Request(change=migrate), timeout_s=0.3)

    async def plan(request: Request) -> Reply:
        await asyncio.sleep(0.6)
        return await answer(request)

    async with serving(path, plan):
        while not path.exists():  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.01)
        reply = await ask(path, Request(change=migrate), timeout_s=0.3)
        assert reply.operation is not None
        with pytest.raises(ControlError, match="TimeoutError"):
            await ask(path, Request(change=Change(action=Action.LOAD)), timeout_s=0.3)


async def test_new_control_takes_over_the_socket_of_one_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with serving(path):
        await ask(path, Request())
    async with serving(path):
        assert (await ask(path, Request())).denial is None


async def test_a_line_that_is_no_request_is_denied_and_the_next_one_answered(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with serving(path):
        while not path.exists():  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_unix_connection(str(path))
        replies = []
        for line in (b"{\n", b'{"change": {"action": "eat"}}\n', b"{}\n"):
            writer.write(line)
            replies.append(await reader.readline())
        writer.close()
    assert [DenialCode.INVALID.encode() in reply for reply in replies] == [True, True, False]


async def test_silent_control_is_an_error_that_names_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="berth status"):
        await ask(tmp_path / "control.sock", Request(), timeout_s=0.5)
    with pytest.raises(ControlError, match="does not respond"):
        await ask(tmp_path / "missing/control.sock", Request())


async def test_tries_again_where_the_socket_cannot_be_made(tmp_path: Path) -> None:
    path = tmp_path / "later/control.sock"
    async with serving(path):
        await asyncio.sleep(0.05)
        path.parent.mkdir()
        assert (await ask(path, Request())).operation is not None

"""The holder of a lease, with a control that is played on its socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec
import pytest

from berth.bench import lease as module
from berth.bench.lease import DeniedError, Lease, StartError, held, taken
from berth.ipc.operations import Action, Denial, DenialCode, Operation, OperationState, Reply, Request, Step

LEASE = Operation(id="a1", action=Action.LEASE, model="m", created_at=1.0)
OVER = Denial(code=DenialCode.OVER, message="it is over")


class Control:
    """Replies as it is said; without it, what is asked of it is so at once."""

    def __init__(self, reply: Callable[[Request], Reply | None] = lambda _request: None) -> None:
        self._reply = reply
        self.asked: list[Request] = []
        self.path = Path(mkdtemp(prefix="lease-")) / "control.sock"

    async def serve(self, scene: Callable[[Path], Awaitable[Any]]) -> Any:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = msgspec.json.decode(await reader.readline(), type=Request)
            self.asked.append(request)
            reply = self._reply(request) or Reply(operation=LEASE, operations=())
            writer.write(msgspec.json.encode(reply) + b"\n")
            with suppress(ConnectionError):
                await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(answer, self.path)
        async with server:
            try:
                return await scene(self.path)
            finally:
                self.path.unlink()
                self.path.parent.rmdir()


@asynccontextmanager
async def leased(path: Path) -> AsyncIterator[Lease]:
    async with held(path, await taken(path, "m", "me", 1.0), "me", 5.0) as lease:
        yield lease


def test_replica_runs_and_the_lease_is_ended_at_the_end() -> None:
    states = iter(["waiting", "starting", "starting"])

    def reply(request: Request) -> Reply | None:
        if request.renew and request.renew.replica and (status := next(states, "")):
            return Reply(operation=LEASE, steps=(Step(replica="r", status=status, to="ready"),))
        return None

    control, seen = Control(reply), list[str]()

    async def scene(path: Path) -> float:
        async with leased(path) as lease:
            return await lease.run("r", 60, lambda step: seen.append(step.status))

    assert asyncio.run(control.serve(scene)) > 0
    assert seen == ["waiting", "starting", "starting"]
    first, *_between, last, _restored = control.asked
    assert first.change is not None
    assert (first.change.action, first.change.model) == (Action.LEASE, "m")
    assert last.renew is not None
    assert last.renew.ends


@pytest.mark.parametrize(
    ("status", "timeout_s", "error"), [("failed", 60, "does not start"), ("starting", 0, "r is starting after 0 s")]
)
def test_engine_that_does_not_start_is_an_error_and_the_lease_is_ended(
    status: str, timeout_s: float, error: str
) -> None:
    def reply(request: Request) -> Reply | None:
        if request.renew and request.renew.replica:
            return Reply(operation=LEASE, steps=(Step(replica="r", status=status, to="ready"),))
        return None

    control = Control(reply)

    async def scene(path: Path) -> None:
        async with leased(path) as lease:
            await lease.run("r", timeout_s, lambda _step: None)

    with pytest.raises(StartError, match=error):
        asyncio.run(control.serve(scene))
    (last,) = [one.renew for one in control.asked if one.renew and one.renew.ends]
    assert error in last.failure


def test_denied_lease_is_an_error() -> None:
    control = Control(lambda _request: Reply(denial=Denial(code=DenialCode.BUSY, message="somebody else")))

    async def scene(path: Path) -> None:
        async with leased(path):
            raise AssertionError("not reached")

    with pytest.raises(DeniedError, match="'m' cannot be measured now: somebody else"):
        asyncio.run(control.serve(scene))


def test_lease_that_somebody_ends_stops_the_run_wherever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RENEW_S", 0.01)
    control = Control(lambda request: Reply(denial=OVER) if request.renew else None)

    async def scene(path: Path) -> None:
        async with leased(path):
            await asyncio.sleep(60)

    with pytest.raises(DeniedError, match="the lease is over: it is over"):
        asyncio.run(control.serve(scene))


def test_model_is_waited_for_as_long_as_it_may_take() -> None:
    load = Operation(id="b2", action=Action.LOAD, model="m", created_at=2.0)
    counts = iter(range(100))

    def reply(_request: Request) -> Reply:
        still = (load,) if next(counts) < 2 else ()
        done = Operation(id=LEASE.id, action=Action.LEASE, model="m", created_at=1.0, state=OperationState.DONE)
        return Reply(operations=(done, *still))

    control = Control(reply)

    async def scene(path: Path) -> int:
        await Lease(path, LEASE.id, "me").restored(60)
        await Lease(path, LEASE.id, "me").restored(0)
        return len(control.asked)

    assert asyncio.run(control.serve(scene)) == 3

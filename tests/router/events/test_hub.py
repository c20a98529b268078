"""What listeners are sent: once a second, the same for all of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from berth.control.operations.server import serve
from berth.errors import NotReadyError
from berth.ipc import journal
from berth.ipc.journal import RECORD, RING_RECORDS
from berth.ipc.operations import Action, Operation, OperationState, Reply, Request
from berth.plan import Keys, Plan
from berth.router.events import hub
from berth.router.events.hub import Hub, Listener, Wants, lasting
from berth.router.telemetry.metrics import Meter, layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.sse import frames_of
from berth.state import GpuState, State
from tests.fakes.key_board import key_board
from tests.fakes.router import make_plan, replica

pytestmark = pytest.mark.anyio

A = replica("chat-a", "http://127.0.0.1:1")


class Setup:
    def __init__(self, run_dir: Path) -> None:
        self.plan: Plan = make_plan(str(run_dir), [A])
        self.plan.paths.logs.mkdir()
        journal.reserve(self.plan.paths.journal, 2)
        Scoreboard.create(self.plan.paths.scoreboard, layout(self.plan), rows=1)
        self.board = Scoreboard(self.plan.paths.scoreboard, layout(self.plan))
        self.meter = Meter(self.board, key_board(self.board, self.plan))
        self.status: dict[str, Any] = {"models": [], "control": {"age_s": 1}}
        self.computed = 0
        self.broken = False
        gpu = GpuState(index=0, memory_used_bytes=5, memory_total_bytes=8, utilization_percent=93)
        state = State(sequence=1, published_at=1.0, control_pid=1, replicas=(), gpus=(gpu,))
        self.hub = Hub(self.plan, Keys(), self.board, status=self.document, state=lambda: state)

    def document(self) -> dict[str, Any]:
        self.computed += 1
        if self.broken:
            raise RuntimeError("a mistake")
        return self.status

    def end(self, *sequences: int, start: float = 100.0) -> None:
        """Requests that are over."""
        data = journal.part_of(self.plan.paths.journal, 0)
        for number in sequences:
            times, tokens, codes = (start, 0.0, -1.0, 2.0), (0, 0, 0, 0, 0), (200, 1, 0, 1, 0, 0, 0)
            values = RECORD.pack(
                number,
                *times,
                *tokens,
                *codes,
                0,
                0,
                0,
                0,
                0,
                b"",
                b"",
                b"",
                b"%d" % number,
                b"",
                *journal.NO_ATTEMPT,
                number,
            )
            place = number % RING_RECORDS * RECORD.size
            data[place : place + RECORD.size] = values
        data.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PERIOD_S", 0.02)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    made = Setup(tmp_path)
    task = asyncio.ensure_future(made.hub.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    made.hub.close()
    made.board.close()


Event = tuple[str, Any]


def events_of(piece: bytes) -> list[Event]:
    found = []
    for frame in frames_of(piece):
        fields = dict(line.split(": ", 1) for line in frame.decode().strip().split("\n"))
        found.append((fields["event"], orjson.loads(fields["data"])) if "event" in fields else ("", fields))
    return found


async def heard(listener: Listener, kind: str, count: int = 1) -> list[Any]:
    """The documents of the next events of this kind."""
    found: list[Any] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            found += [document for name, document in events_of(await listener.next()) if name == kind]
    return found


async def test_begins_with_the_state_and_goes_with_traffic(setup: Setup) -> None:
    setup.meter.in_flight("chat", 3)
    setup.meter.on_replica(A, 3)
    listener = setup.hub.join(Wants())

    first = events_of(await listener.next())
    assert first == [("", {"retry": "3000"}), ("state", setup.status)]

    (traffic,) = await heard(listener, "traffic")
    assert (traffic["models"]["chat"]["in_flight"], traffic["replicas"]["chat-a"]["in_flight"]) == (3, 3)
    assert traffic["gpus"] == [{"index": 0, "used": 5, "total": 8, "busy": 0.93, "watts": None, "celsius": None}]
    assert traffic["host"].keys() == {"cpu", "rss"}


async def test_all_listeners_get_one_computation(setup: Setup) -> None:
    listeners = [setup.hub.join(Wants()) for _ in range(10)]
    before = setup.computed
    pieces = [await heard(listener, "traffic", 3) for listener in listeners]
    assert all(piece[:3] == pieces[0][:3] for piece in pieces)
    assert setup.computed - before < 10 * 3


async def test_nothing_is_computed_without_listeners(setup: Setup) -> None:
    listener = setup.hub.join(Wants())
    await heard(listener, "traffic")
    setup.hub.leave(listener)
    await asyncio.sleep(0.03)
    before = setup.computed
    await asyncio.sleep(0.1)
    assert setup.computed == before


async def test_state_follows_when_it_has_changed_and_not_for_passing_numbers(setup: Setup) -> None:
    listener = setup.hub.join(Wants())
    await heard(listener, "traffic", 2)
    setup.status = {"models": [], "control": {"age_s": 2}}
    pieces = b"".join([await listener.next() for _ in range(3)])
    assert "state" not in {kind for kind, _ in events_of(pieces)}

    setup.status = {"models": ["one"], "control": {"age_s": 3}}
    assert await heard(listener, "state") == [setup.status]


def test_numbers_that_change_all_the_time_do_not_last() -> None:
    status = {"gpus": [1], "models": [{"name": "m", "queue": {"length": 1, "size": 2}, "replicas": [{"in_flight": 3}]}]}
    assert lasting(status) == {"models": [{"name": "m", "queue": {"size": 2}, "replicas": [{}]}]}


async def test_requests_follow_those_of_the_past_without_a_gap(setup: Setup) -> None:
    setup.end(1, 2)
    silent, listener = setup.hub.join(Wants()), setup.hub.join(Wants(requests=True))
    setup.end(3)
    late = setup.hub.join(Wants(requests=True))  # the third is not known yet

    first, then = await heard(listener, "requests", 2)
    assert [one["request"] for one in first["requests"]] == ["1", "2"]
    assert [one["request"] for one in then["requests"]] == ["3"]
    assert [one["request"] for document in await heard(late, "requests", 2) for one in document["requests"]] == list(
        "123"
    )
    assert "requests" not in {kind for kind, _ in events_of(await silent.next())}


async def test_a_client_that_returns_gets_what_it_has_missed(setup: Setup) -> None:
    setup.end(1, start=100)
    setup.end(2, start=200)
    (document,) = await heard(setup.hub.join(Wants(requests=True, since=102.5)), "requests")
    assert [one["request"] for one in document["requests"]] == ["2"]


async def test_many_requests_are_skipped_and_counted(setup: Setup) -> None:
    listener = setup.hub.join(Wants(requests=True))
    setup.end(*range(1, 251))
    _, document = await heard(listener, "requests", 2)
    assert (len(document["requests"]), document["skipped"]) == (100, 150)
    assert document["requests"][-1]["request"] == "250"


async def test_log_begins_with_its_end(setup: Setup) -> None:
    path = setup.plan.paths.replica_log("chat-a")
    path.write_text("one\ntwo\n")
    listener, other = setup.hub.join(Wants(logs="chat-a")), setup.hub.join(Wants(logs="chat-a"))
    assert await heard(listener, "log") == [{"replica": "chat-a", "lines": ["one", "two"], "skipped": 0}]
    with path.open("a") as file:
        file.write("three\n")
    assert await heard(listener, "log") == [{"replica": "chat-a", "lines": ["three"], "skipped": 0}]
    assert [document["lines"] for document in await heard(other, "log", 2)] == [["one", "two"], ["three"]]


async def test_operations_follow_their_progress(setup: Setup) -> None:
    def operation(number: str, state: OperationState) -> Operation:
        return Operation(id=number, action=Action.UNLOAD, model="chat", created_at=1.0, state=state)

    shown = [operation("old", OperationState.DONE), operation("a", OperationState.RUNNING)]

    async def answer(_: Request) -> Reply:
        return Reply(operations=tuple(shown))

    control = asyncio.ensure_future(serve(setup.plan.paths.control_socket, answer))
    listener = setup.hub.join(Wants())
    (first,) = await heard(listener, "operation")
    shown[1] = operation("a", OperationState.DONE)
    (then,) = await heard(listener, "operation")
    shown.append(operation("b", OperationState.RUNNING))
    await heard(listener, "operation")
    late = events_of(await setup.hub.join(Wants()).next())
    control.cancel()
    await asyncio.gather(control, return_exceptions=True)

    assert msgspec.convert(first, Operation) == operation("a", OperationState.RUNNING)
    assert msgspec.convert(then, Operation) == operation("a", OperationState.DONE)
    assert [document["id"] for kind, document in late if kind == "operation"] == ["b"]


async def test_failed_computation_is_logged_and_the_next_one_follows(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    listener = setup.hub.join(Wants())
    await heard(listener, "state")
    setup.broken = True
    await asyncio.sleep(0.05)
    assert "events not computed" in caplog.text
    setup.broken, setup.status = False, {"models": ["after"]}
    assert await heard(listener, "state") == [{"models": ["after"]}]


async def test_too_many_listeners_are_an_error(setup: Setup) -> None:
    for _ in range(hub.MOST_LISTENERS):
        setup.hub.join(Wants())
    with pytest.raises(NotReadyError, match="64 clients") as refused:
        setup.hub.join(Wants())
    assert refused.value.retry_after_s


async def test_keep_alive(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "KEEP_ALIVE_S", 0.0)
    listener = setup.hub.join(Wants())
    await listener.next()
    assert b": keep-alive\n\n" in await listener.next()


async def test_drain_ends_all_listeners_and_new_ones_at_once(setup: Setup) -> None:
    listener = setup.hub.join(Wants())
    setup.hub.end_all()
    assert await listener.next() != b""  # what waits is still sent
    assert await listener.next() == b""
    late = setup.hub.join(Wants(requests=True))
    assert events_of(await late.next()) == [("", {"retry": "3000"})]  # an error would keep browsers from returning
    assert await late.next() == b""

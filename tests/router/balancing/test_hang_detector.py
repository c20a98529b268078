"""Which replicas are found to hang, and who is told."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from berth.apis.openai.chat import OpenaiChat
from berth.canonical import InferenceRequest, Operation
from berth.plan import Keys
from berth.router.balancing.admission import Admission
from berth.router.balancing.hang_detector import HangDetector, HangsError
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.exchange.inflight import InflightRequests, StopReason
from berth.router.exchange.request import RequestContext
from berth.router.telemetry.metrics import Meter, layout
from berth.router.telemetry.shared_counters import Scoreboard
from tests.fakes.guarded import guarded
from tests.fakes.key_board import key_board
from tests.fakes.ports import free_port
from tests.fakes.router import LIMITS, make_plan, replica
from tests.fakes.upstream import HANG, FakeUpstream, chat_answer, error_answer

pytestmark = pytest.mark.anyio

REQUEST = InferenceRequest(operation=Operation.CHAT, model="one", body={})


class Ward:
    """A worker's liveness. `one` has two places on the engine, `free` has no limit, on `gone` nobody listens."""

    def __init__(self, run_dir: Path, engine: FakeUpstream, token_timeout_s: float = 0.01) -> None:
        nobody = f"http://127.0.0.1:{free_port()}"
        replicas = [
            replica("one-a", engine.url, concurrency=2),
            replica("free-a", engine.url),
            replica("gone-a", nobody, concurrency=2),
        ]
        plan = make_plan(
            str(run_dir), replicas, limits=replace(LIMITS, token_timeout_s=token_timeout_s, first_token_timeout_s=0.3)
        )
        Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
        self.board = Scoreboard(plan.paths.scoreboard, layout(plan))
        self.meter = Meter(self.board, key_board(self.board, plan))
        self.upstreams = Upstreams(plan, Keys())
        self.admission = Admission(plan, self.upstreams, self.meter)
        self.liveness = HangDetector(self.upstreams, self.admission, plan.limits)
        self.plan = plan
        self.engine = engine
        self._tasks: list[asyncio.Task[str]] = []

    def upstream(self, model: str) -> Upstream:
        (found,) = self.upstreams.ready(next(one for one in self.plan.models if one.name == model))
        return found

    def call(self, model: str) -> RequestContext:
        """Of the current task."""
        inflight = InflightRequests().begin(asyncio.Event().wait, asyncio.sleep)  # type: ignore[arg-type] # no client is there
        ctx = RequestContext(OpenaiChat(), "x", inflight)
        ctx.accept(REQUEST, next(one for one in self.plan.models if one.name == model))
        return ctx

    async def await_whole(self, model: str, calls: list[RequestContext] | None = None) -> "asyncio.Task[str]":
        """A request for a whole answer, which waits for longer than a replica may be silent."""
        task = asyncio.ensure_future(self._wait(model, calls if calls is not None else []))
        self._tasks.append(task)
        await asyncio.sleep(0.05)
        return task

    async def until(self, check: Callable[[], object]) -> None:
        async with asyncio.timeout(15):
            while not check():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)

    async def checked(self, model: str) -> None:
        """It was looked after, and its check is over: that takes a place as long as it lasts."""
        self.liveness.poll()
        found = self.upstream(model).replica
        assert self.meter.load(found) == 1
        await self.until(lambda: self.meter.load(found) == 0)
        await asyncio.sleep(0)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.liveness.close()
        self.upstreams.close()
        await asyncio.sleep(0)
        self.board.close()

    async def _wait(self, model: str, calls: list[RequestContext]) -> str:
        call = self.call(model)
        calls.append(call)
        try:
            await self.liveness.watch(call.inflight, self.upstream(model), forever())
        except HangsError as exc:
            return str(exc)
        raise AssertionError  # pragma: no cover - nothing else ends it


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


@pytest.fixture
async def ward(tmp_path: Path) -> AsyncIterator[Ward]:
    with FakeUpstream() as engine:
        ward = Ward(tmp_path, engine)
        yield ward
        await ward.close()


async def test_replica_without_a_token_in_time_hangs(ward: Ward) -> None:
    ward.engine.answers(HANG)
    waiting = [await ward.await_whole("one") for _ in range(3)]

    await ward.checked("one")

    assert {await one for one in waiting} == {"the engine hangs: no token within 0.3 s"}
    assert [(one.path, one.json["max_tokens"]) for one in ward.engine.requests] == [("/v1/completions", 1)]
    assert ward.upstreams.marked_down() == ["one-a"]


async def test_token_closes_the_circuit_of_an_ejected_replica(ward: Ward) -> None:
    ward.engine.answers(chat_answer())
    ward.upstreams.failed(ward.upstream("one"), certain=True)
    await ward.await_whole("one")

    await ward.checked("one")

    assert ward.upstreams.marked_down() == []


@pytest.mark.parametrize("answer", [chat_answer(), error_answer("no such thing", status=404)])
async def test_any_response_to_the_check_is_a_sign_of_life(ward: Ward, answer: bytes) -> None:
    ward.engine.answers(answer)
    waiting = await ward.await_whole("one")

    await ward.checked("one")
    await asyncio.sleep(0.05)
    await ward.checked("one")

    assert not waiting.done()
    assert len(ward.engine.requests) == 2
    assert ward.upstreams.marked_down() == []


async def test_unreachable_replica_hangs(ward: Ward) -> None:
    waiting = await ward.await_whole("gone")

    await ward.checked("gone")

    assert "hangs" in await waiting


def answers_another(ward: Ward) -> None:
    ward.upstreams.succeeded(ward.upstream("one"))


def goes_on_with_a_stream(ward: Ward) -> None:
    ward.upstream("one").progress += 1  # as StreamForwarder does


@pytest.mark.parametrize("lives", [answers_another, goes_on_with_a_stream])
async def test_responses_to_other_requests_are_a_sign_of_life(ward: Ward, lives: Callable[[Ward], None]) -> None:
    ward.engine.answers(HANG)
    waiting = await ward.await_whole("one")
    ward.liveness.poll()
    await ward.until(lambda: ward.engine.requests)
    lives(ward)

    await ward.until(lambda: ward.meter.load(ward.upstream("one").replica) == 0)
    await asyncio.sleep(0)

    assert not waiting.done()
    assert ward.upstreams.marked_down() == []


async def test_stalled_stream_is_not_a_sign_of_life(ward: Ward) -> None:
    ward.engine.answers(HANG)
    goes_on_with_a_stream(ward)
    waiting = await ward.await_whole("one")

    await ward.checked("one")

    assert "hangs" in await waiting


async def test_check_waits_for_a_free_slot(ward: Ward) -> None:
    ward.engine.answers(HANG)
    full = ward.upstream("one")
    ward.meter.on_replica(full.replica, 2)
    waiting = await ward.await_whole("one")
    ward.liveness.poll()
    assert (full.check_slots, ward.meter.load(full.replica)) == (1, 2)

    ward.meter.on_replica(full.replica, -2)
    await ward.checked("one")

    assert full.check_slots == 0
    assert "hangs" in await waiting


async def test_slot_is_kept_for_the_check_only_while_the_replica_is_silent(ward: Ward) -> None:
    full = ward.upstream("one")
    ward.meter.on_replica(full.replica, 2)
    await ward.await_whole("one")
    ward.liveness.poll()
    assert full.check_slots

    full.heard = math.inf
    ward.liveness.poll()

    assert not full.check_slots


async def test_replica_with_recent_response_is_not_checked(tmp_path: Path) -> None:
    with FakeUpstream() as engine:
        ward = Ward(tmp_path, engine, token_timeout_s=60)
        await ward.await_whole("one")
        ward.liveness.poll()
        await asyncio.sleep(0.05)
        await ward.close()

    assert engine.requests == []


async def test_requests_sent_after_the_check_keep_waiting(ward: Ward) -> None:
    ward.engine.answers(HANG)
    first = await ward.await_whole("one")
    ward.liveness.poll()
    await ward.until(lambda: ward.engine.requests)
    second = await ward.await_whole("one")

    assert "hangs" in await first
    assert not second.done()


async def test_request_of_disconnected_client_is_only_cancelled(ward: Ward) -> None:
    ward.engine.answers(HANG)
    calls: list[RequestContext] = []
    waiting = await ward.await_whole("one", calls)
    ward.liveness.poll()
    await ward.until(lambda: ward.engine.requests)
    calls[0].inflight.stop(StopReason.GONE)

    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("given_up_first", [True, False])
async def test_disconnect_during_give_up_stops_the_request(ward: Ward, *, given_up_first: bool) -> None:
    calls: list[RequestContext] = []

    async def both() -> None:
        async def work() -> None:
            (wait,) = ward.liveness._waits[ward.upstream("one")]
            steps: list[Callable[[], None]] = [
                lambda: wait.give_up("it hangs"),
                lambda: calls[0].inflight.stop(StopReason.GONE),
            ]
            for step in steps if given_up_first else reversed(steps):
                step()
            await asyncio.sleep(1)

        await ward.liveness.watch(calls[0].inflight, ward.upstream("one"), work())

    async def flies() -> None:
        calls.append(ward.call("one"))
        await guarded(calls[0].inflight, both())

    await asyncio.create_task(flies())

    assert calls[0].inflight.stopped is StopReason.GONE


async def test_failed_check_changes_nothing(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ward.upstream("one"), "dialect", None)
    waiting = await ward.await_whole("one")

    await ward.checked("one")

    assert not waiting.done()


async def test_check_that_is_preempted_shows_nothing(ward: Ward) -> None:
    ward.engine.answers(HANG)
    waiting = await ward.await_whole("one")
    found = ward.upstream("one")
    ward.liveness.poll()
    await asyncio.to_thread(ward.engine.arrived.wait, 60)

    found.pool.preempt()
    await ward.until(lambda: ward.meter.load(found.replica) == 0)
    await asyncio.sleep(0)

    assert not waiting.done()
    assert ward.upstreams.marked_down() == []

"""Who gets the places on the engines, and who waits for them."""

import asyncio
import hashlib
import time
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from berth.apis.base import NO_HEADERS, Headers
from berth.apis.openai.chat import OpenaiChat
from berth.apis.openai.passthrough import OpenaiStream
from berth.canonical import InferenceRequest, Operation
from berth.dialects.failures import engine_failure
from berth.errors import NotReadyError, OverloadedError
from berth.plan import Adapter, ApiKey, EngineName, Keys, Plan, Standby
from berth.router.balancing import admission
from berth.router.balancing.admission import Admission
from berth.router.balancing.circuit_breaker import REJECTIONS
from berth.router.balancing.queue import RISES
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.exchange.headers import SIDE, Priority
from berth.router.exchange.inflight import InflightRequests
from berth.router.exchange.outcomes import Attempt, Outcome
from berth.router.exchange.request import Grant, RequestContext
from berth.router.telemetry.metrics import Meter, layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.state import Canary, ReplicaStatus
from tests.fakes.key_board import key_board
from tests.fakes.router import LIMITS, make_plan, publish, replica, replica_state, route
from tests.fakes.scoreboard import FakeScoreboard

pytestmark = pytest.mark.anyio

NOBODY = "http://127.0.0.1:1"


class AdmissionSetup:
    """A worker's admission, and what it decides by. `one` has one place, `pair` has one on each of two replicas."""

    def __init__(self, run_dir: Path, adapters: Sequence[str] = (), **limits: Any) -> None:
        names = ("one-a", "pair-a", "pair-b")
        limited = [replica(name, NOBODY, concurrency=1) for name in names]
        free = [replica(name, NOBODY) for name in ("free-a", "mixed-b")]
        four = replica("four-a", NOBODY, concurrency=4)
        replicas = [*limited, *free, four, replica("mixed-a", NOBODY, concurrency=1)]
        routes = [
            replace(
                route("one", ["one-a"]), adapters=tuple(Adapter(name=name, source=f"org/{name}") for name in adapters)
            ),
            route("pair", ["pair-a", "pair-b"], standby=Standby.HOT),
            route("free", ["free-a"]),
            route("four", ["four-a"]),
            route("mixed", ["mixed-a", "mixed-b"]),
        ]
        self.plan: Plan = make_plan(str(run_dir), replicas, routes, replace(LIMITS, **{"queue_size": 3, **limits}))
        Scoreboard.create(self.plan.paths.scoreboard, layout(self.plan), rows=2)
        self.board = FakeScoreboard(self.plan.paths.scoreboard, layout(self.plan))
        self.meter = Meter(self.board, key_board(self.board, self.plan))
        self.upstreams = Upstreams(self.plan, Keys())
        self.admission = Admission(self.plan, self.upstreams, self.meter, self._queued)
        self.waits: list[bool] = []  # one for each request that was queued
        self.sent: list[bytes] = []
        self._taken: defaultdict[str, list[Upstream]] = defaultdict(list)
        self._tasks: list[asyncio.Task[str | None]] = []

    def _queued(self) -> None:
        self.waits.append(self.admission.waiting)

    def call(
        self,
        model: str,
        *,
        stream: bool = False,
        priority: Priority = Priority.NORMAL,
        owner: int = 0,
        headers: Headers = NO_HEADERS,
        engine: str = "",
        only: bool = False,
    ) -> RequestContext:
        """`engine`, `only`: as a rule has decided."""
        request = InferenceRequest(operation=Operation.CHAT, model=model, body={}, stream=stream)
        inflight = InflightRequests().begin(asyncio.Event().wait, self._send)  # type: ignore[arg-type] # never received from
        ctx = RequestContext(OpenaiChat(), "x", inflight)
        ctx.headers = headers
        ctx.accept(
            request,
            replace(next(one for one in self.plan.routes if one.name == model), engine=engine, only=only),
            priority=priority,
            key=ApiKey(name=str(owner), slot=owner),
        )
        ctx.grant = Grant(0.0, 0.0, 1.0) if owner else None
        return ctx

    async def enter(self, model: str, *, asked: Sequence[str] = (), **fields: Any) -> "asyncio.Task[str | None]":
        """A request that comes; its result is the replica that it gets, which it then keeps."""
        task = asyncio.ensure_future(self._serve(self.call(model, **fields), asked))
        self._tasks.append(task)
        await turns()
        return task

    def leave(self, name: str) -> None:
        """A request on that replica ends."""
        self.admission.end(self._taken[name].pop())

    def acquire(self, upstream: Upstream) -> None:
        """A request is sent to that replica, and stays there until `leave`."""
        self.admission.begin(upstream)
        self._taken[upstream.replica.name].append(upstream)

    def upstream(self, name: str) -> Upstream:
        return next(one for r in self.plan.models for one in self.upstreams.ready(r) if one.replica.name == name)

    def other_worker(self, **numbers: float) -> None:
        """What another worker has: requests on replicas, and those that wait."""
        row = array("d", [0.0] * self.board.layout.width)
        for name, number in numbers.items():
            what, _, one = name.partition("_")
            key = ("berth_queue_length", one) if what == "waiting" else (*LOAD, one.replace("_", "-"), "vllm")
            row[self.board.layout.slots[key]] = number
        self.board.show(memoryview(row))

    def waiting(self, model: str) -> int:
        return self.meter.queue_length(model)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert [one.reserved for r in self.plan.models for one in self.upstreams.ready(r) if one.reserved] == []
        assert [r.name for r in self.plan.models if self.meter.queue_length(r.name) and not self.board.others] == []
        for name in [name for name, taken in self._taken.items() for _ in taken]:
            self.leave(name)
        self.board.close()

    async def _serve(self, call: RequestContext, asked: Sequence[str]) -> str | None:
        upstream = await self.admission.next(call, [self.upstream(name) for name in asked])
        if upstream is None:
            return None
        self.acquire(upstream)
        return upstream.replica.name

    async def _send(self, message: Message) -> None:
        self.sent.append(message.get("body", b"head"))


LOAD = ("berth_replica_requests_in_flight",)


async def turns() -> None:
    """What can go on goes on."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def setup(tmp_path: Path) -> Any:
    setup = AdmissionSetup(tmp_path)
    yield setup
    await setup.close()


async def test_requests_of_a_model_without_limit_are_not_queued(setup: AdmissionSetup) -> None:
    assert [(await setup.enter("free")).result() for _ in range(9)] == ["free-a"] * 9


async def test_uses_next_replica_when_first_has_no_free_slot(setup: AdmissionSetup) -> None:
    assert [(await setup.enter("mixed")).result() for _ in range(3)] == ["mixed-a", "mixed-b", "mixed-b"]


async def test_the_engine_of_a_rule_is_first_while_it_has_a_free_slot(setup: AdmissionSetup) -> None:
    got = [(await setup.enter("pair", engine="pair-b")).result() for _ in range(2)]
    assert got == ["pair-b", "pair-a"]


async def test_a_request_that_waits_for_one_engine_alone_holds_up_no_other(setup: AdmissionSetup) -> None:
    first, second = [await setup.enter("pair", engine="pair-a", only=True) for _ in range(2)]
    third = await setup.enter("pair")
    assert (first.result(), second.done(), third.result()) == ("pair-a", False, "pair-b")

    fourth = await setup.enter("pair")
    setup.leave("pair-b")
    await turns()
    assert (second.done(), fourth.result()) == (False, "pair-b")
    setup.leave("pair-a")
    await turns()
    assert second.result() == "pair-a"


async def test_queues_excess_requests_and_serves_the_oldest_first(setup: AdmissionSetup) -> None:
    first, second, third = [await setup.enter("one") for _ in range(3)]
    assert (first.done(), second.done(), third.done(), setup.waiting("one")) == (True, False, False, 2)

    setup.leave("one-a")
    await turns()

    assert (second.done(), third.done(), setup.waiting("one")) == (True, False, 1)


async def test_new_request_does_not_overtake_queued_ones(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    second = await setup.enter("one")

    setup.leave("one-a")  # before `second` takes the place another one comes
    third = await setup.enter("one")

    assert (second.done(), third.done()) == (True, False)


async def test_serves_higher_priority_first(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    low, normal, high = [await setup.enter("one", priority=one) for one in reversed(Priority)]

    order = []
    for _ in range(3):
        setup.leave("one-a")
        await turns()
        order.append([high.done(), normal.done(), low.done()])

    assert order == [[True, False, False], [True, True, False], [True, True, True]]


async def test_owners_take_turns(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    greedy = [await setup.enter("one", owner=1) for _ in range(2)]
    modest = await setup.enter("one", owner=2)

    order = []
    for _ in range(3):
        setup.leave("one-a")
        await turns()
        order.append([task.done() for task in (*greedy, modest)])

    assert order == [[True, False, False], [True, False, True], [True, True, True]]


async def test_full_queue_has_a_place_for_another_owner(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    greedy = [await setup.enter("one", owner=1) for _ in range(3)]
    modest = await setup.enter("one", owner=2)

    with pytest.raises(OverloadedError, match="3 requests are queued already"):
        await greedy[2]
    assert (modest.done(), setup.waiting("one")) == (False, 3)
    with pytest.raises(OverloadedError):
        await (await setup.enter("one", owner=1))


async def test_low_priority_rises_above_high_priority(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path, queue_timeout_s=4)
    await setup.enter("one")
    patient = setup.call("one", priority=Priority.LOW)
    patient.since -= 2
    task = asyncio.ensure_future(setup.admission.next(patient, []))
    await turns()
    urgent = await setup.enter("one", priority=Priority.HIGH)

    setup.leave("one-a")
    await turns()

    assert (task.done(), urgent.done()) == (True, False)
    setup.acquire(task.result() or setup.upstream("one-a"))
    await setup.close()


async def test_queued_request_takes_a_slot_on_any_replica(setup: AdmissionSetup) -> None:
    tasks = [await setup.enter("pair") for _ in range(3)]
    assert [task.result() for task in tasks[:2]] == ["pair-a", "pair-b"]

    setup.leave("pair-b")
    await turns()

    assert tasks[2].result() == "pair-b"


async def test_removes_cancelled_request_from_the_queue(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    second, third = [await setup.enter("one") for _ in range(2)]

    second.cancel()
    await turns()
    setup.leave("one-a")
    await turns()

    assert (third.done(), setup.waiting("one")) == (True, 0)


async def test_cancelled_request_passes_its_reserved_slot_on(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    second, third = [await setup.enter("one") for _ in range(2)]

    setup.leave("one-a")
    second.cancel()
    await turns()

    assert (second.cancelled(), third.result()) == (True, "one-a")


async def test_rejects_requests_when_the_queue_is_full(setup: AdmissionSetup) -> None:
    for _ in range(4):
        await setup.enter("one")

    with pytest.raises(OverloadedError, match="3 requests are queued already") as refused:
        await (await setup.enter("one"))

    assert (refused.value.code, refused.value.retry_after_s) == ("queue_full", 1)


async def test_full_queue_gives_the_place_of_the_lowest_class_to_a_higher_one(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    low = [await setup.enter("one", priority=Priority.LOW) for _ in range(2)]
    normal = await setup.enter("one")

    high = [await setup.enter("one", priority=Priority.HIGH), await setup.enter("one", priority=Priority.NORMAL)]

    assert [one.done() for one in (*low, normal, *high)] == [True, True, False, False, False]
    for one in low:
        with pytest.raises(OverloadedError, match="a request of higher priority has taken the place") as outranked:
            await one
        assert (outranked.value.code, outranked.value.retry_after_s) == ("outranked", 1)
    with pytest.raises(OverloadedError) as full:
        await (await setup.enter("one", priority=Priority.NORMAL))
    assert (full.value.code, setup.waiting("one")) == ("queue_full", 3)


async def test_request_that_has_waited_for_long_is_not_outranked(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path, queue_timeout_s=0.4)
    await setup.enter("one")
    risen = [await setup.enter("one", priority=Priority.LOW) for _ in range(3)]
    await asyncio.sleep(0.4 * RISES)

    with pytest.raises(OverloadedError) as full:
        await (await setup.enter("one"))
    assert full.value.code == "queue_full"
    assert not any(one.done() and not one.exception() for one in risen)
    await setup.close()


async def test_queue_size_counts_the_queues_of_other_workers(setup: AdmissionSetup) -> None:
    setup.other_worker(on_one_a=1, waiting_one=3)

    with pytest.raises(OverloadedError, match="3 requests are queued already"):
        await (await setup.enter("one"))


async def test_queue_timeout_error_has_the_position(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path, queue_timeout_s=0.05)
    await setup.enter("one")
    second, third = [await setup.enter("one") for _ in range(2)]

    with pytest.raises(OverloadedError, match=r"was at capacity for 0.05 s .* at position 1 ") as refused:
        await second
    with pytest.raises(OverloadedError):
        await third

    assert refused.value.code == "queue_timeout"
    assert setup.waiting("one") == 0
    await setup.close()


async def test_poll_finds_slots_that_other_workers_freed(setup: AdmissionSetup) -> None:
    setup.other_worker(on_one_a=1)
    task = await setup.enter("one")
    setup.admission.poll()
    await turns()
    assert (task.done(), setup.waits) == (False, [True])

    setup.other_worker()
    setup.admission.poll()
    await turns()

    assert (task.result(), setup.admission.waiting, setup.waits) == ("one-a", False, [True])


async def test_two_workers_with_queues_use_half_of_the_slots_each(setup: AdmissionSetup) -> None:
    setup.other_worker(waiting_four=1)

    tasks = [await setup.enter("four") for _ in range(4)]

    assert [task.done() for task in tasks] == [True, True, False, False]
    setup.admission.poll()
    await turns()
    assert [task.done() for task in tasks] == [True, True, False, False]


async def test_indivisible_slot_goes_to_the_worker_that_polls_first(setup: AdmissionSetup) -> None:
    setup.other_worker(waiting_one=1)
    task = await setup.enter("one")
    assert not task.done()

    setup.admission.poll()
    await turns()

    assert task.done()


async def test_queued_requests_fail_when_no_replica_is_ready(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    second = await setup.enter("one")

    publish(setup.plan, replica_state("one-a", ReplicaStatus.BACKOFF, reason="exit 1"))
    setup.upstreams.poll()
    setup.admission.poll()

    with pytest.raises(NotReadyError, match="exit 1"):
        await second


async def test_fallback_waits_only_for_untried_replicas(setup: AdmissionSetup) -> None:
    first, second = [await setup.enter("pair") for _ in range(2)]
    assert (first.result(), second.result()) == ("pair-a", "pair-b")
    again = await setup.enter("pair", asked=["pair-a"])
    new = await setup.enter("pair")

    setup.leave("pair-a")
    await turns()
    assert (again.done(), new.result()) == (False, "pair-a")

    setup.leave("pair-b")
    await turns()
    assert again.result() == "pair-b"


async def test_next_is_none_when_all_replicas_were_tried(setup: AdmissionSetup) -> None:
    assert (await setup.enter("one", asked=["one-a"])).result() is None


async def test_next_is_none_when_the_last_untried_replica_goes_away(setup: AdmissionSetup) -> None:
    await setup.enter("pair")
    await setup.enter("pair")
    again = await setup.enter("pair", asked=["pair-a"])

    publish(setup.plan, replica_state("pair-b", ReplicaStatus.BACKOFF))
    setup.upstreams.poll()
    setup.admission.poll()
    await turns()

    assert again.result() is None


async def test_ejected_replica_does_not_bypass_the_queue(setup: AdmissionSetup) -> None:
    setup.upstreams.failed(setup.upstream("pair-b"), certain=True)
    tasks = [await setup.enter("pair") for _ in range(2)]

    assert (tasks[0].result(), tasks[1].done()) == ("pair-a", False)


class Racing:
    """In place of the fence: at the very moment between counting and looking, another worker counts a request too."""

    def __init__(self, setup: AdmissionSetup, **numbers: float) -> None:
        self._hall = setup
        self._numbers = numbers

    def __enter__(self) -> None:
        self._hall.other_worker(**self._numbers)

    def __exit__(self, *_: object) -> None:
        pass


async def test_two_workers_never_both_get_the_last_slot(setup: AdmissionSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.admission, "_fence", Racing(setup, on_four_a=4))

    task = await setup.enter("four")

    assert not task.done()
    assert setup.meter.own_load(setup.upstream("four-a").replica) == 0
    setup.other_worker(on_four_a=3)
    monkeypatch.setattr(setup.admission, "_fence", Racing(setup, on_four_a=3))
    setup.admission.poll()
    await turns()
    assert task.result() == "four-a"


async def test_reserved_slot_counts_for_other_workers(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    second = await setup.enter("one")

    setup.leave("one-a")
    assert (second.done(), setup.meter.load(setup.upstream("one-a").replica)) == (False, 1)
    await turns()

    assert (second.done(), setup.meter.load(setup.upstream("one-a").replica)) == (True, 1)


async def test_fallback_counts_only_when_it_is_sent(setup: AdmissionSetup) -> None:
    """It may still be refused a further attempt: then nobody would give its place back."""
    upstream = await setup.admission.next(setup.call("pair"), [setup.upstream("pair-a")])

    assert upstream is setup.upstream("pair-b")
    assert (setup.meter.load(upstream.replica), upstream.reserved) == (0, 0)
    setup.acquire(upstream)
    assert setup.meter.load(upstream.replica) == 1


async def test_fallback_to_replica_without_limit_needs_no_slot(setup: AdmissionSetup) -> None:
    assert (await setup.enter("mixed", asked=["mixed-a"])).result() == "mixed-b"
    assert setup.meter.load(setup.upstream("mixed-b").replica) == 1


async def test_liveness_check_uses_a_slot(setup: AdmissionSetup) -> None:
    one = setup.upstream("one-a")
    assert (setup.admission.reserve_for_check(one), one.check_slots) == (True, 0)
    setup.admission.begin(one)
    waiting = await setup.enter("one")
    assert not waiting.done()

    setup.admission.end(one)
    await turns()

    assert waiting.result() == "one-a"


async def test_next_free_slot_is_reserved_for_the_liveness_check(setup: AdmissionSetup) -> None:
    one = setup.upstream("one-a")
    await setup.enter("one")
    waiting = await setup.enter("one")
    assert (setup.admission.reserve_for_check(one), one.check_slots) == (False, 1)

    setup.leave("one-a")
    await turns()
    assert not waiting.done()

    assert (setup.admission.reserve_for_check(one), one.check_slots) == (True, 0)
    setup.admission.begin(one)
    setup.admission.end(one)
    await turns()
    assert waiting.done()


def is_full(upstream: Upstream) -> None:
    """It says so, and nothing else."""
    for _ in range(REJECTIONS):
        upstream.breaker.rejected(time.monotonic())


async def test_requests_wait_for_overloaded_replica_until_one_probes_it(setup: AdmissionSetup) -> None:
    full = setup.upstream("four-a")
    is_full(full)
    tasks = [await setup.enter("four") for _ in range(2)]
    assert (setup.waiting("four"), setup.admission.reserve_for_check(full)) == (2, False)

    full.check_slots = 0
    full.breaker.opened_until = 0.0  # the pause is over
    setup.admission.poll()
    assert (full.reserved, setup.waiting("four")) == (1, 2)
    full.breaker.begin(time.monotonic())
    await turns()
    setup.admission.poll()
    await turns()
    assert [task.done() for task in tasks] == [True, False]

    full.breaker.succeeded(time.monotonic())
    setup.admission.poll()
    await turns()
    assert tasks[1].result() == "four-a"


async def test_overloaded_replicas_without_queue_get_no_requests(setup: AdmissionSetup) -> None:
    is_full(setup.upstream("free-a"))

    with pytest.raises(OverloadedError, match="Every engine of model 'free' is at capacity") as refused:
        await (await setup.enter("free"))

    assert refused.value.code == "overloaded"
    assert refused.value.retry_after_s == pytest.approx(1, abs=0.3)


async def test_error_after_fallback_names_the_first_failure(setup: AdmissionSetup) -> None:
    is_full(setup.upstream("free-a"))
    call = setup.call("free")
    failure = engine_failure("boom")
    call.failures.append(Attempt(replica="x", engine=EngineName.VLLM, outcome=Outcome.ENGINE, failure=failure))

    assert await setup.admission.next(call, []) is None


async def test_adapter_shares_the_slots_of_its_model(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path, adapters=("small",))
    first, second = await setup.enter("one"), await setup.enter("small")
    assert (first.done(), second.done(), setup.waiting("one")) == (True, False, 1)

    setup.leave("one-a")
    await turns()

    assert second.result() == "one-a"
    await setup.close()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "HEARTBEAT_S", 0.02)


@pytest.mark.usefixtures("often")
async def test_queued_stream_gets_heartbeats_with_its_position(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    await setup.enter("one")
    await setup.enter("one", stream=True)

    async with asyncio.timeout(10):
        while len(setup.sent) < 3:  # noqa: ASYNC110 - the fake client tells nobody
            await asyncio.sleep(0.01)

    assert setup.sent[:3] == [b"head", b": queued, position 2\n\n", b": queued, position 2\n\n"]


class MuteStream(OpenaiStream):
    def heartbeat(self, text: str) -> bytes:  # noqa: ARG002 - the interface asks
        return b""


class Mute(OpenaiChat):
    """An API whose clients pass over nothing."""

    def stream(self, request: InferenceRequest) -> MuteStream:  # noqa: ARG002 - the interface asks
        return MuteStream()


@pytest.mark.usefixtures("often")
async def test_queued_stream_without_heartbeats_only_starts(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path, queue_timeout_s=0.2)
    await setup.enter("one")
    call = setup.call("one", stream=True)
    call.api = Mute()

    with pytest.raises(OverloadedError):
        await setup.admission.next(call, [])

    assert setup.sent == [b"head"]
    await setup.close()


@pytest.mark.usefixtures("often")
async def test_non_streaming_request_gets_no_heartbeats(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path, queue_timeout_s=0.1)
    await setup.enter("one")

    with pytest.raises(OverloadedError):
        await (await setup.enter("one"))

    assert setup.sent == []
    await setup.close()


def show(setup: AdmissionSetup, name: str, status: ReplicaStatus, requested: str = "", *, sequence: int) -> None:
    """Control publishes it, and this worker reads it."""
    publish(setup.plan, replica_state(name, status, requested=requested), sequence=sequence)
    setup.upstreams.poll()


async def test_requests_wait_for_a_model_that_is_loaded_by_request_in_their_order(setup: AdmissionSetup) -> None:
    show(setup, "one-a", ReplicaStatus.STOPPING, "loaded", sequence=2)
    first, second = await setup.enter("one"), await setup.enter("one")
    setup.admission.poll()
    assert (first.done(), second.done(), setup.waiting("one")) == (False, False, 2)

    show(setup, "one-a", ReplicaStatus.STARTING, "loaded", sequence=3)
    setup.admission.poll()
    await turns()
    assert (first.done(), setup.waiting("one")) == (False, 2)

    show(setup, "one-a", ReplicaStatus.READY, sequence=4)
    setup.admission.poll()
    await turns()
    assert (await first, second.done(), setup.waiting("one")) == ("one-a", False, 1)  # the second has no slot yet


async def test_request_waits_on_when_its_model_is_restarted_again(setup: AdmissionSetup) -> None:
    show(setup, "free-a", ReplicaStatus.STARTING, "loaded", sequence=2)
    waiting = await setup.enter("free")
    show(setup, "free-a", ReplicaStatus.READY, sequence=3)
    setup.admission.poll()
    show(setup, "free-a", ReplicaStatus.DRAINING, "loaded", sequence=4)  # before the request has its turn
    await turns()
    assert (waiting.done(), setup.waiting("free")) == (False, 1)

    show(setup, "free-a", ReplicaStatus.READY, sequence=5)
    setup.admission.poll()
    assert await waiting == "free-a"
    assert setup.waiting("free") == 0


async def test_waits_no_longer_for_a_model_that_is_restarted_again_and_again(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path, queue_timeout_s=0.2)
    show(setup, "free-a", ReplicaStatus.STARTING, "loaded", sequence=2)
    waiting = await setup.enter("free")
    sequence = 2
    while not waiting.done():
        show(setup, "free-a", ReplicaStatus.READY, sequence=sequence + 1)
        setup.admission.poll()
        show(setup, "free-a", ReplicaStatus.DRAINING, "loaded", sequence=sequence + 2)
        sequence += 2
        await asyncio.sleep(0.02)
    with pytest.raises(NotReadyError):
        await waiting
    await setup.close()


async def test_request_gets_a_replica_whose_state_this_worker_has_not_read_yet(setup: AdmissionSetup) -> None:
    show(setup, "free-a", ReplicaStatus.STARTING, sequence=2)
    publish(setup.plan, replica_state("free-a", ReplicaStatus.READY), sequence=3)  # another worker has read it
    assert await (await setup.enter("free")) == "free-a"


async def test_request_that_waits_for_a_load_fails_with_it(setup: AdmissionSetup) -> None:
    show(setup, "free-a", ReplicaStatus.STARTING, "loaded", sequence=2)
    waiting = await setup.enter("free")

    show(setup, "free-a", ReplicaStatus.FAILED, sequence=3)
    setup.admission.poll()

    with pytest.raises(NotReadyError, match="failed"):
        await waiting
    assert setup.waiting("free") == 0


async def test_waits_for_a_load_no_longer_than_in_the_queue_unless_it_streams(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path, queue_timeout_s=0.1)
    show(setup, "free-a", ReplicaStatus.STARTING, "loaded", sequence=2)
    whole, stream = await setup.enter("free"), await setup.enter("free", stream=True)

    with pytest.raises(NotReadyError, match="not ready yet"):
        await whole
    await asyncio.sleep(0.1)
    assert not stream.done()

    show(setup, "free-a", ReplicaStatus.READY, sequence=3)
    setup.admission.poll()
    assert await stream == "free-a"
    await setup.close()


@pytest.mark.usefixtures("often")
async def test_stream_gets_heartbeats_while_its_model_is_loaded(setup: AdmissionSetup) -> None:
    show(setup, "free-a", ReplicaStatus.STARTING, "loaded", sequence=2)
    await setup.enter("free", stream=True)

    await asyncio.sleep(0.1)

    assert b"model loading" in b"".join(setup.sent)


async def test_no_more_requests_wait_for_a_load_than_the_queue_holds(setup: AdmissionSetup) -> None:
    show(setup, "free-a", ReplicaStatus.STARTING, "loaded", sequence=2)
    waiting = [await setup.enter("free") for _ in range(4)]

    assert [one.done() for one in waiting] == [False, False, False, True]
    with pytest.raises(OverloadedError) as error:
        await waiting[3]
    assert (error.value.code, error.value.retry_after_s) == ("queue_full", 5)
    waiting[0].cancel()
    await turns()
    assert setup.waiting("free") == 2


async def test_request_that_waits_for_a_load_gives_its_place_to_one_of_higher_priority(setup: AdmissionSetup) -> None:
    show(setup, "free-a", ReplicaStatus.STARTING, "loaded", sequence=2)
    low = [await setup.enter("free", priority=Priority.LOW) for _ in range(2)]
    normal = await setup.enter("free")

    high = await setup.enter("free", priority=Priority.HIGH)
    await turns()

    assert [one.done() for one in (*low, normal, high)] == [False, True, False, False]
    with pytest.raises(OverloadedError) as outranked:
        await low[1]
    assert (outranked.value.code, outranked.value.retry_after_s) == ("outranked", 5)
    assert setup.waiting("free") == 3
    await setup.enter("free")
    await turns()
    assert low[0].done()
    with pytest.raises(OverloadedError) as full:
        await (await setup.enter("free"))
    assert full.value.code == "queue_full"


@pytest.mark.parametrize(
    ("header", "stream", "waits"),
    [
        ({b"x-berth-load": b"no"}, True, False),
        ({b"x-berth-wait": b"0"}, False, False),
        ({b"x-berth-wait": b"50ms"}, True, False),
        ({b"x-berth-wait": b"1h"}, False, True),
    ],
)
async def test_client_decides_how_long_it_waits_for_a_load(
    tmp_path: Path, header: dict[bytes, bytes], stream: bool, waits: bool
) -> None:
    setup = AdmissionSetup(tmp_path, queue_timeout_s=0.1)
    show(setup, "free-a", ReplicaStatus.STARTING, "loaded", sequence=2)
    request = await setup.enter("free", stream=stream, headers=header)
    await asyncio.sleep(0.2)
    assert request.done() is not waits
    if not waits:
        with pytest.raises(NotReadyError, match="is not ready yet"):
            await request
    await setup.close()


async def test_requests_of_an_unloaded_model_do_not_wait(setup: AdmissionSetup) -> None:
    show(setup, "free-a", ReplicaStatus.UNLOADED, "unloaded", sequence=2)
    with pytest.raises(NotReadyError) as error:
        await (await setup.enter("free"))
    assert (error.value.code, error.value.should_retry) == ("model_not_loaded", False)


async def test_queued_requests_stay_queued_while_their_model_is_restarted(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    queued = await setup.enter("one")

    show(setup, "one-a", ReplicaStatus.DRAINING, "loaded", sequence=2)
    setup.admission.poll()
    setup.leave("one-a")
    await turns()
    assert not queued.done()

    show(setup, "one-a", ReplicaStatus.READY, sequence=3)
    setup.admission.poll()
    assert await queued == "one-a"


async def test_turns_are_paid_at_the_beginning_and_put_right_at_the_end(setup: AdmissionSetup) -> None:
    """A request that finds a free slot pays too: otherwise a client that came early would be the next for long."""
    ctx = setup.call("one", owner=3)
    ctx.grant = Grant(10.0, 20.0, 50.0)
    queue = setup.admission._queues["one"]
    for _ in range(2):  # the second time as a fallback does
        upstream = await setup.admission.next(ctx, [])
        assert upstream is not None
        assert queue.turns.of(3) == 50.0
        setup.admission.begin(upstream)
        setup.admission.end(upstream)
    setup.admission.settle(ctx, 30.0)

    assert queue.turns.of(3) == 30.0


# migrations


async def test_requests_that_a_migration_queues_do_not_time_out(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path, queue_timeout_s=0.05)
    states = [replica_state("one-a", ReplicaStatus.READY)]
    draining = replica_state("free-a", ReplicaStatus.DRAINING, requested="loaded")
    publish(setup.plan, *states, draining, held=("free", "one"))
    setup.upstreams.poll()
    whole = await setup.enter("free")
    served, queued = await setup.enter("one"), await setup.enter("one")
    await asyncio.sleep(0.2)
    assert (whole.done(), await served, queued.done()) == (False, "one-a", False)

    publish(setup.plan, *states, replica_state("free-a", ReplicaStatus.READY), sequence=2)
    setup.upstreams.poll()
    setup.leave("one-a")
    setup.admission.poll()
    assert (await whole, await queued) == ("free-a", "one-a")
    await setup.close()


async def test_the_candidate_of_a_migration_comes_first_for_its_share_and_last_for_others(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path)
    route = next(one for one in setup.plan.models if one.name == "mixed")
    states = [replica_state(name, ReplicaStatus.READY) for name in route.replicas]
    canary = Canary(model=route.name, replica=route.replicas[-1], share=0.0, salt="1")
    publish(setup.plan, *states, canaries=(canary,))
    setup.upstreams.poll()

    def first(side: bytes = b"") -> str:
        return setup.admission.candidates(setup.call(route.name, headers={SIDE: side}))[0].replica.name

    assert (first(), first(b"candidate")) == (route.replicas[0], route.replicas[-1])
    publish(setup.plan, *states, canaries=(replace(canary, share=1.0),), sequence=2)
    setup.upstreams.poll()
    assert (first(), first(b"stable")) == (route.replicas[-1], route.replicas[0])
    await setup.close()


async def test_leased_model_admits_the_bench_that_measures_it_alone(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path)
    digest = hashlib.sha256(b"secret").hexdigest()
    state = replica_state("one-a", ReplicaStatus.STARTING, leased=True, requested="unloaded", measured_by=digest)
    publish(setup.plan, state)
    setup.upstreams.poll()
    bench, client = (setup.call("one", headers={b"x-api-key": key}) for key in (b"secret", b"another"))
    assert await setup.admission.next(bench, ()) is setup.upstreams.of("one-a")
    with pytest.raises(NotReadyError) as caught:
        await setup.admission.next(client, ())
    assert caught.value.code == "model_leased"

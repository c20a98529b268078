"""Who gets the places on the engines, and who waits for them."""

import asyncio
import time
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from berth.apis.openai.chat import OpenaiChat
from berth.apis.openai.passthrough import OpenaiStream
from berth.canonical import InferenceRequest, Operation
from berth.errors import NotReadyError, OverloadedError
from berth.plan import Adapter, EngineName, Keys, Plan, Standby
from berth.router.balancing import admission
from berth.router.balancing.admission import Admission
from berth.router.balancing.circuit_breaker import REFUSALS
from berth.router.balancing.selection import Balance
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.exchange import outcomes
from berth.router.exchange.headers import Priority
from berth.router.exchange.inflight import InflightRequests
from berth.router.exchange.outcomes import Attempt, Outcome
from berth.router.exchange.request import RequestContext
from berth.router.telemetry.metrics import Meter, layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.state import ReplicaStatus
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
        self.meter = Meter(self.board)
        self.upstreams = Upstreams(self.plan, Keys())
        self.admission = Admission(self.plan, Balance(self.upstreams, self.meter), self.meter)
        self.sent: list[bytes] = []
        self._tasks: list[asyncio.Task[str | None]] = []

    def call(self, model: str, *, stream: bool = False, priority: Priority = Priority.NORMAL) -> RequestContext:
        request = InferenceRequest(operation=Operation.CHAT, model=model, body={}, stream=stream)
        return RequestContext(
            api=OpenaiChat(),
            request=request,
            route=next(one for one in self.plan.routes if one.name == model),
            request_id="x",
            flight=InflightRequests().begin(asyncio.Event().wait, self._send),  # type: ignore[arg-type] # never received from
            priority=priority,
        )

    async def enter(self, model: str, *, asked: Sequence[str] = (), **fields: Any) -> "asyncio.Task[str | None]":
        """A request that comes; its result is the replica that it gets, which it then keeps."""
        task = asyncio.ensure_future(self._serve(self.call(model, **fields), asked))
        self._tasks.append(task)
        await turns()
        return task

    def leave(self, name: str) -> None:
        """A request on that replica ends."""
        upstream = self.upstream(name)
        self.meter.on_replica(upstream.replica, -1)
        self.admission.freed(upstream.replica.model)

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
        assert [one.promised for r in self.plan.models for one in self.upstreams.ready(r) if one.promised] == []
        assert [r.name for r in self.plan.models if self.meter.queue_length(r.name) and not self.board.others] == []
        self.board.close()

    async def _serve(self, call: RequestContext, asked: Sequence[str]) -> str | None:
        upstream = await self.admission.next(call, [self.upstream(name) for name in asked])
        if upstream is None:
            return None
        self.admission.taken(upstream)
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


async def test_without_a_limit_nobody_waits(setup: AdmissionSetup) -> None:
    assert [(await setup.enter("free")).result() for _ in range(9)] == ["free-a"] * 9


async def test_where_the_first_is_full_the_next_in_order_is_asked(setup: AdmissionSetup) -> None:
    assert [(await setup.enter("mixed")).result() for _ in range(3)] == ["mixed-a", "mixed-b", "mixed-b"]


async def test_what_is_too_much_waits_and_the_oldest_is_next(setup: AdmissionSetup) -> None:
    first, second, third = [await setup.enter("one") for _ in range(3)]
    assert (first.done(), second.done(), third.done(), setup.waiting("one")) == (True, False, False, 2)

    setup.leave("one-a")
    await turns()

    assert (second.done(), third.done(), setup.waiting("one")) == (True, False, 1)


async def test_nobody_overtakes_those_that_wait(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    second = await setup.enter("one")

    setup.leave("one-a")  # before `second` takes the place another one comes
    third = await setup.enter("one")

    assert (second.done(), third.done()) == (True, False)


async def test_the_urgent_ones_go_first(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    low, normal, high = [await setup.enter("one", priority=one) for one in reversed(Priority)]

    order = []
    for _ in range(3):
        setup.leave("one-a")
        await turns()
        order.append([high.done(), normal.done(), low.done()])

    assert order == [[True, False, False], [True, True, False], [True, True, True]]


async def test_a_place_on_any_replica_will_do(setup: AdmissionSetup) -> None:
    tasks = [await setup.enter("pair") for _ in range(3)]
    assert [task.result() for task in tasks[:2]] == ["pair-a", "pair-b"]

    setup.leave("pair-b")
    await turns()

    assert tasks[2].result() == "pair-b"


async def test_one_that_leaves_is_forgotten(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    second, third = [await setup.enter("one") for _ in range(2)]

    second.cancel()
    await turns()
    setup.leave("one-a")
    await turns()

    assert (third.done(), setup.waiting("one")) == (True, 0)


async def test_one_that_leaves_with_its_place_in_hand_hands_it_on(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    second, third = [await setup.enter("one") for _ in range(2)]

    setup.leave("one-a")
    second.cancel()
    await turns()

    assert (second.cancelled(), third.result()) == (True, "one-a")


async def test_more_than_may_wait_are_refused_at_once(setup: AdmissionSetup) -> None:
    for _ in range(4):
        await setup.enter("one")

    with pytest.raises(OverloadedError, match="3 requests wait already") as refused:
        await (await setup.enter("one"))

    assert (refused.value.code, refused.value.retry_after_s) == ("queue_full", 1)


async def test_those_that_wait_in_other_workers_count_too(setup: AdmissionSetup) -> None:
    setup.other_worker(on_one_a=1, waiting_one=3)

    with pytest.raises(OverloadedError, match="3 requests wait already"):
        await (await setup.enter("one"))


async def test_who_waits_too_long_is_told_the_position(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path, queue_timeout_s=0.05)
    await setup.enter("one")
    second, third = [await setup.enter("one") for _ in range(2)]

    with pytest.raises(OverloadedError, match=r"was full for 0.05 s .* at position 1 ") as refused:
        await second
    with pytest.raises(OverloadedError):
        await third

    assert refused.value.code == "queue_timeout"
    assert setup.waiting("one") == 0
    await setup.close()


async def test_a_place_that_another_worker_frees_is_found(setup: AdmissionSetup) -> None:
    setup.other_worker(on_one_a=1)
    task = await setup.enter("one")
    setup.admission.look()
    await turns()
    assert not task.done()

    setup.other_worker()
    setup.admission.look()
    await turns()

    assert task.result() == "one-a"


async def test_where_two_workers_have_requests_that_wait_each_fills_its_half(setup: AdmissionSetup) -> None:
    setup.other_worker(waiting_four=1)

    tasks = [await setup.enter("four") for _ in range(4)]

    assert [task.done() for task in tasks] == [True, True, False, False]
    setup.admission.look()
    await turns()
    assert [task.done() for task in tasks] == [True, True, False, False]


async def test_a_place_that_cannot_be_divided_goes_to_the_one_that_looks_first(setup: AdmissionSetup) -> None:
    setup.other_worker(waiting_one=1)
    task = await setup.enter("one")
    assert not task.done()

    setup.admission.look()
    await turns()

    assert task.done()


async def test_when_the_engine_goes_those_that_wait_are_told(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    second = await setup.enter("one")

    publish(setup.plan, replica_state("one-a", ReplicaStatus.BACKOFF, reason="exit 1"))
    setup.upstreams.poll()
    setup.admission.look()

    with pytest.raises(NotReadyError, match="exit 1"):
        await second


async def test_one_that_failed_elsewhere_waits_for_the_rest_only(setup: AdmissionSetup) -> None:
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


async def test_one_that_has_asked_all_is_told_so(setup: AdmissionSetup) -> None:
    assert (await setup.enter("one", asked=["one-a"])).result() is None


async def test_one_whose_last_replica_goes_while_it_waits_has_asked_all(setup: AdmissionSetup) -> None:
    await setup.enter("pair")
    await setup.enter("pair")
    again = await setup.enter("pair", asked=["pair-a"])

    publish(setup.plan, replica_state("pair-b", ReplicaStatus.BACKOFF))
    setup.upstreams.poll()
    setup.admission.look()
    await turns()

    assert again.result() is None


async def test_a_sick_replica_is_no_way_around_the_queue(setup: AdmissionSetup) -> None:
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


async def test_of_two_workers_that_want_the_last_place_at_once_none_overlooks_the_other(
    setup: AdmissionSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup.admission, "_fence", Racing(setup, on_four_a=4))

    task = await setup.enter("four")

    assert not task.done()
    assert setup.meter.own_load(setup.upstream("four-a").replica) == 0
    setup.other_worker(on_four_a=3)
    monkeypatch.setattr(setup.admission, "_fence", Racing(setup, on_four_a=3))
    setup.admission.look()
    await turns()
    assert task.result() == "four-a"


async def test_a_place_that_was_granted_counts_for_the_other_workers_before_it_is_taken(setup: AdmissionSetup) -> None:
    await setup.enter("one")
    second = await setup.enter("one")

    setup.leave("one-a")
    assert (second.done(), setup.meter.load(setup.upstream("one-a").replica)) == (False, 1)
    await turns()

    assert (second.done(), setup.meter.load(setup.upstream("one-a").replica)) == (True, 1)


async def test_one_that_failed_elsewhere_counts_when_it_is_sent(setup: AdmissionSetup) -> None:
    """It may still be refused a further attempt: then nobody would give its place back."""
    upstream = await setup.admission.next(setup.call("pair"), [setup.upstream("pair-a")])

    assert upstream is setup.upstream("pair-b")
    assert (setup.meter.load(upstream.replica), upstream.promised) == (0, 0)
    setup.admission.taken(upstream)
    assert setup.meter.load(upstream.replica) == 1


async def test_one_that_failed_elsewhere_needs_no_place_where_there_is_no_limit(setup: AdmissionSetup) -> None:
    assert (await setup.enter("mixed", asked=["mixed-a"])).result() == "mixed-b"
    assert setup.meter.load(setup.upstream("mixed-b").replica) == 1


async def test_a_place_to_see_whether_a_replica_lives_counts_as_one(setup: AdmissionSetup) -> None:
    one = setup.upstream("one-a")
    assert (setup.admission.spare(one), one.spared) == (True, 0)
    setup.admission.taken(one)
    waiting = await setup.enter("one")

    setup.admission.left(one)
    await turns()

    assert waiting.result() == "one-a"


async def test_where_there_is_none_the_next_one_is_spared(setup: AdmissionSetup) -> None:
    one = setup.upstream("one-a")
    await setup.enter("one")
    waiting = await setup.enter("one")
    assert (setup.admission.spare(one), one.spared) == (False, 1)

    setup.leave("one-a")
    await turns()
    assert not waiting.done()

    assert (setup.admission.spare(one), one.spared) == (True, 0)
    setup.admission.taken(one)
    setup.admission.left(one)
    await turns()
    assert waiting.done()


def is_full(upstream: Upstream) -> None:
    """It says so, and nothing else."""
    for _ in range(REFUSALS):
        upstream.breaker.refused(time.monotonic())


async def test_requests_wait_for_one_that_says_it_is_full_until_one_of_them_may_try(setup: AdmissionSetup) -> None:
    full = setup.upstream("four-a")
    is_full(full)
    tasks = [await setup.enter("four") for _ in range(2)]
    assert (setup.waiting("four"), setup.admission.spare(full)) == (2, False)

    full.spared = 0
    full.breaker.opened_until = 0.0  # the pause is over
    setup.admission.look()
    assert (full.promised, setup.waiting("four")) == (1, 2)
    full.breaker.begin(time.monotonic())
    await turns()
    setup.admission.look()
    await turns()
    assert [task.done() for task in tasks] == [True, False]

    full.breaker.succeeded(time.monotonic())
    setup.admission.look()
    await turns()
    assert tasks[1].result() == "four-a"


async def test_where_nobody_can_wait_those_that_say_they_are_full_are_not_asked_in_vain(setup: AdmissionSetup) -> None:
    is_full(setup.upstream("free-a"))

    with pytest.raises(OverloadedError, match="Every engine of model 'free' is full") as refused:
        await (await setup.enter("free"))

    assert refused.value.code == "overloaded"
    assert refused.value.retry_after_s == pytest.approx(1, abs=0.3)


async def test_one_that_another_replica_has_failed_is_told_of_that_one(setup: AdmissionSetup) -> None:
    is_full(setup.upstream("free-a"))
    call = setup.call("free")
    failure = outcomes.engine_failure("boom")
    call.failures.append(Attempt(replica="x", engine=EngineName.VLLM, outcome=Outcome.ENGINE, failure=failure))

    assert await setup.admission.next(call, []) is None


async def test_an_adapter_has_its_places_among_those_of_its_model(tmp_path: Path) -> None:
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
async def test_a_stream_that_waits_is_told_where_it_stands(setup: AdmissionSetup) -> None:
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
async def test_where_the_api_has_no_heartbeat_the_stream_only_begins(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path, queue_timeout_s=0.2)
    await setup.enter("one")
    call = setup.call("one", stream=True)
    call.api = Mute()

    with pytest.raises(OverloadedError):
        await setup.admission.next(call, [])

    assert setup.sent == [b"head"]
    await setup.close()


@pytest.mark.usefixtures("often")
async def test_an_answer_that_is_not_streamed_has_no_heartbeats(tmp_path: Path) -> None:
    setup = AdmissionSetup(tmp_path, queue_timeout_s=0.1)
    await setup.enter("one")

    with pytest.raises(OverloadedError):
        await (await setup.enter("one"))

    assert setup.sent == []
    await setup.close()

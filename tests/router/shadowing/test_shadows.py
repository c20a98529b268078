"""Requests of all APIs through a worker whose model has a shadow: what clients get, and what is counted."""

import asyncio
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from berth.errors import NotReadyError
from berth.ipc import journal, shadow_counts
from berth.ipc.shadow import PLACES, Mirror, Results, Skip
from berth.ipc.shadow_results import of_mirror
from berth.plan import DialectName, Keys, Plan
from berth.router.app import App
from berth.router.shadowing import shadows as module
from berth.router.shadowing.shadows import MOST_WAITING, ROOM_BYTES
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.worker import Worker
from berth.state import EngineLoad, ReplicaState, ReplicaStatus
from tests.fakes.asgi import Answer, ask
from tests.fakes.router import make_plan, publish, replica, replica_state, route
from tests.fakes.upstream import (
    HANG,
    RESET,
    FakeUpstream,
    Request,
    chat_answer,
    chat_frame,
    chat_stream,
    chunk,
    error_answer,
    json_answer,
    stream_head,
)

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hello there"}], "temperature": 0}
STREAM = {**CHAT, "stream": True}
APIS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": STREAM,
    "/v1/messages": {**STREAM, "max_tokens": 9},
    "/v1/responses": {"model": "chat", "input": "Hello there", "temperature": 0, "stream": True},
    "/api/chat": {"model": "chat", "messages": CHAT["messages"], "options": {"temperature": 0}},
}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
STABLE, CANDIDATE = "chat-vllm", "chat-sglang"


class Box:
    """A worker, the engine that serves, and the candidate."""

    def __init__(self, plan: Plan, own: FakeUpstream, other: FakeUpstream) -> None:
        self.plan, self.own, self.other = plan, own, other
        self.worker = Worker(plan, Keys())
        self.app = App(self.worker)
        self.mirror = Mirror(id="1", model="chat", replica=CANDIDATE, share=1.0, ready=True)
        self._sequence = 1

    def publish(self, *mirrors: Mirror, load: EngineLoad | None = None) -> None:
        """As control does."""
        self._sequence += 1
        states: list[ReplicaState] = [
            replica_state(one.name, ReplicaStatus.READY, load=load) for one in self.plan.replicas
        ]
        publish(self.plan, *states, sequence=self._sequence, shadows=mirrors)
        self.worker.upstreams.poll()

    async def ask(self, body: object = STREAM, path: str = "/v1/chat/completions", **headers: str) -> Answer:
        return await ask(self.app, path, method="POST", body=body, headers=headers)

    def results(self) -> Results:
        return of_mirror(self.mirror, shadow_counts.read(self.plan)["chat"], 0.0)

    async def settled(self) -> Results:
        """Nothing is on its way, and nothing is held for it."""
        async with asyncio.timeout(60):
            while self.results().waiting or self.worker.shadows.room_bytes != ROOM_BYTES:  # noqa: ASYNC110 - numbers
                await asyncio.sleep(0.001)
        return self.results()


@asynccontextmanager
async def box_of(run_dir: str, **limits: int) -> AsyncIterator[Box]:
    with FakeUpstream() as own, FakeUpstream() as other:
        replicas = [
            replica(STABLE, own.url, **limits),  # type: ignore[arg-type] # a limit
            replica(CANDIDATE, other.url, dialect=DialectName.SGLANG, **limits),  # type: ignore[arg-type] # the same
        ]
        plan = make_plan(run_dir, replicas, [route("chat", [STABLE, CANDIDATE], aliases=("c",))])
        Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
        box = Box(plan, own, other)
        box.publish(box.mirror)
        for engine in (own, other):
            engine.answers_with(good)
        task = asyncio.ensure_future(box.worker.shadows.run())
        try:
            yield box
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            box.worker.upstreams.close()
            box.worker.shadows.close()
            box.worker.board.close()


def good(request: Request) -> tuple[bytes, ...]:
    return chat_stream("Good", " day") if request.json.get("stream") else (chat_answer("Good day"),)


@pytest.fixture
async def box(run_dir: str) -> AsyncIterator[Box]:
    async with box_of(run_dir) as box:
        yield box


@pytest.mark.parametrize("path", APIS)
async def test_clients_get_the_same_bytes_and_the_candidate_the_same_request(box: Box, path: str) -> None:
    box.publish()
    plain = await box.ask(APIS[path], path, **{"x-request-id": "one"})
    box.publish(box.mirror)
    answer = await box.ask(APIS[path], path, **{"x-request-id": "one"})

    found = await box.settled()

    hidden = {"server-timing"}
    assert {name: value for name, value in answer.headers.items() if name not in hidden} == {
        name: value for name, value in plain.headers.items() if name not in hidden
    }
    assert untimed(answer.body) == untimed(plain.body)
    assert (found.requests, found.pairs, found.same) == (1, 1, 1)
    assert (found.rates["text"].same, found.rates["tokens"].of, found.means["duration"].pairs) == (1, 2, 1)
    (sent,) = box.other.requests
    assert sent.json["messages"] == box.own.requests[-1].json["messages"]
    assert sent.headers["x-request-id"] == "shadow-one"
    assert (len(box.own.requests), box.worker.meter.load(box.plan.replica(CANDIDATE))) == (2, 0)


def untimed(body: bytes) -> int:
    """Its length: ids and times are random, and each as long as another."""
    return len(body) if b'"created_at"' not in body else len(body.split(b'"created_at"')[0])


async def test_whole_answers_are_compared_and_nothing_is_charged(box: Box) -> None:
    await box.ask(CHAT)
    await box.settled()
    box.other.answers(chat_answer("Good night"))
    await box.ask(CHAT)

    found = await box.settled()

    assert (found.requests, found.same, found.diverged, found.rates["tokens"].same) == (2, 1, 1, 3)
    assert found.means["first_token"].pairs == 0
    sums, slots = box.worker.board.totals()[0], box.worker.board.layout.slots
    counters = {tuple(labels): sums[slot] for (name, *labels), slot in slots.items() if name == "berth_attempts"}
    assert {labels[0]: count for labels, count in counters.items() if count} == {STABLE: 2}
    finished = journal.Reader(box.plan.paths.journal, journal.Names(box.plan, ())).finished()
    assert [one.replica for one in finished] == [STABLE, STABLE]


async def test_status_and_metrics_have_what_was_found(box: Box) -> None:
    assert b"berth_shadow_total{" not in (await ask(box.app, "/metrics")).body
    await box.ask(CHAT)
    await box.ask({**CHAT, "n": 2})
    await box.settled()

    (model,) = (await ask(box.app, "/status")).json["models"]
    metrics = (await ask(box.app, "/metrics")).body.decode().splitlines()

    assert (model["shadow"]["replica"], model["shadow"]["pairs"], model["shadow"]["skipped"]["choices"]) == (
        CANDIDATE,
        1,
        1,
    )
    assert [line for line in metrics if line.startswith("berth_shadow")] == [
        'berth_shadow_total{model="chat",result="same"} 1.0',
        'berth_shadow_skipped_total{model="chat",reason="choices"} 1.0',
    ]
    box.publish()
    assert (await ask(box.app, "/status")).json["models"][0]["shadow"] is None


async def test_a_share_of_the_conversations_is_mirrored_and_each_of_them_whole(box: Box) -> None:
    box.publish(Mirror(id="7", model="chat", replica=CANDIDATE, share=0.3, ready=True))
    for _ in range(3):
        for number in range(60):
            await box.ask(CHAT, **{"x-session-id": str(number)})
        await box.settled()

    found = box.results()

    assert (found.requests, found.requests - found.not_chosen) == (180, found.pairs)
    assert found.pairs % 3 == 0
    assert 8 <= found.pairs / 3 <= 30  # 18 of 60, and far from chance


async def test_the_share_of_answers_that_differ_is_found_within_its_interval(box: Box) -> None:
    def differing(request: Request) -> tuple[bytes, ...]:
        differs = zlib.crc32(request.json["messages"][0]["content"].encode()) % 100 < 20
        return (chat_answer("Good night" if differs else "Good day"),)

    box.other.answers_with(differing)
    truth = 0
    for number in range(200):
        content = f"question {number}"
        truth += zlib.crc32(content.encode()) % 100 < 20
        await box.ask({**CHAT, "messages": [{"role": "user", "content": content}]})
        if number % 20 == 0:
            await box.settled()

    found = await box.settled()

    rate = found.rates["text"]
    assert (found.diverged, found.pairs, rate.of) == (truth, 200, 200)
    assert rate.low < 0.8 < rate.high
    assert rate.low < 1 - truth / 200 < rate.high


NOT_MIRRORED: dict[str, tuple[Skip, object, str, dict[str, str]]] = {
    "of another kind": (Skip.KIND, {"model": "chat", "prompt": "Hello"}, "/tokenize", {}),
    "with several answers": (Skip.CHOICES, {**CHAT, "n": 2}, "/v1/chat/completions", {}),
    "with several prompts": (Skip.CHOICES, {"model": "chat", "prompt": ["a", "b"]}, "/v1/completions", {}),
    "with a picture": (
        Skip.MEDIA,
        {**CHAT, "messages": [{"role": "user", "content": [PICTURE]}]},
        "/v1/chat/completions",
        {},
    ),
    "not to be stored": (Skip.NO_STORE, CHAT, "/v1/chat/completions", {"cache-control": "no-cache, No-Store"}),
    "that is large": (
        Skip.TOO_LARGE,
        {**CHAT, "messages": [{"role": "user", "content": "a" * 300_000}]},
        "/v1/chat/completions",
        {},
    ),
}


@pytest.mark.parametrize("case", NOT_MIRRORED)
async def test_requests_that_are_not_mirrored_are_counted_with_their_reason(box: Box, case: str) -> None:
    reason, body, path, headers = NOT_MIRRORED[case]
    box.own.answers(json_answer({"tokens": [1], "count": 1}) if reason is Skip.KIND else chat_answer())

    await box.ask(body, path, **headers)

    assert counted(await box.settled()) == {reason: 1}
    assert not any(one.headers["x-request-id"].startswith("shadow") for one in box.other.requests)


def counted(found: Results) -> dict[str, int]:
    """The reasons, once the counts add up."""
    assert found.requests == found.not_chosen + found.pairs + sum(found.skipped.values()) + found.waiting
    return {reason: count for reason, count in found.skipped.items() if count}


async def test_failures_of_the_clients_answer_are_no_comparison(box: Box) -> None:
    box.own.answers(error_answer("no", status=400))
    await box.ask(CHAT)
    box.own.answers(RESET)  # the candidate answers in its place
    await box.ask(CHAT)
    box.own.answers(stream_head(), chunk(chat_frame("Good")), RESET)
    box.other.answers(error_answer("no", status=500))
    await box.ask({**STREAM, "tools": [{"type": "function", "function": {"name": "f"}}]})

    assert counted(await box.settled()) == {Skip.FAILED: 2, Skip.SAME_REPLICA: 1}


async def test_a_client_that_leaves_has_no_shadow(box: Box) -> None:
    gate = threading.Event()
    box.own.answers(stream_head(), chunk(chat_frame("Good")), gate, RESET)
    task = asyncio.ensure_future(box.ask())
    async with asyncio.timeout(60):
        while not len(box.worker.inflight) or not box.own.requests:  # noqa: ASYNC110 - numbers
            await asyncio.sleep(0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    gate.set()

    assert set(counted(await box.settled())) <= {Skip.CUT, Skip.FAILED}


FAILING: dict[str, tuple[Any, dict[str, int]]] = {
    "dead": ((RESET,), {"broken": 1}),
    "an error": ((error_answer("sorry", status=500),), {"engine": 1}),
    "overloaded": ((error_answer("full", status=429),), {"overloaded": 1}),
    "cut": ((stream_head(), chunk(chat_frame("Good")), chunk(b"")), {"cut": 1}),
    "lost in the middle": ((stream_head(), chunk(chat_frame("Good")), RESET), {"broken": 1}),
    "no stream": ((chat_answer(),), {"engine": 1}),
    "no answer": ((stream_head(), chunk(b"data: {\n\n"), chunk(b"")), {"engine": 1}),
}


@pytest.mark.parametrize("case", FAILING)
async def test_a_candidate_that_fails_is_counted_and_no_client_notices(box: Box, case: str) -> None:
    steps, failures = FAILING[case]
    box.other.answers(*steps)
    answer = await box.ask()

    found = await box.settled()

    assert (answer.status, answer.headers["x-berth-replica"]) == (200, STABLE)
    assert (found.error, found.pairs, found.failures) == (1, 1, failures)
    assert box.worker.upstreams.marked_down() == []
    assert found.failure_rate is not None
    assert found.failure_rate.low > 0


async def test_a_candidate_without_a_connection(box: Box) -> None:
    box.other.kill()
    answer = await box.ask()

    assert (answer.status, (await box.settled()).failures) == (200, {"connect": 1})


async def test_a_wedged_candidate_takes_its_places_only_and_is_counted_as_late(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_S", 0.05)
    monkeypatch.setattr(module, "TIMES", 0.0)
    box.other.answers(HANG)
    answers = [await box.ask() for _ in range(6)]

    found = await box.settled()

    assert {answer.status for answer in answers} == {200}
    assert (found.failures, counted(found)) == ({"timeout": 6}, {})


async def test_what_the_candidate_cannot_serve_is_no_failure_of_it(box: Box) -> None:
    box.publish(Mirror(id="1", model="chat", replica=CANDIDATE, share=1, ready=True))
    await box.ask({**STREAM, "truncate_prompt_tokens": 5})  # SGLang has none
    box.other.answers(stream_head(), *(chunk(chat_frame("x" * 60_000)) for _ in range(20)), chunk(b""))
    await box.ask()

    assert counted(await box.settled()) == {Skip.UNSUPPORTED: 1, Skip.TOO_LARGE: 1}


async def test_large_answers_of_the_client_are_not_kept(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.own.answers(*chat_stream(*("x" * 60_000 for _ in range(20))))
    await box.ask()
    monkeypatch.setattr(box.worker.shadows, "room_bytes", 10)
    box.own.answers(*chat_stream("Good"))
    await box.ask()
    monkeypatch.setattr(box.worker.shadows, "room_bytes", ROOM_BYTES)

    assert counted(await box.settled()) == {Skip.TOO_LARGE: 1, Skip.NO_MEMORY: 1}


async def test_nothing_is_sent_while_the_box_is_busy(box: Box) -> None:
    for load in (EngineLoad(waiting=1), EngineLoad(kv_usage=0.95)):
        box.publish(box.mirror, load=load)
        await box.ask()
    box.publish(Mirror(id="1", model="chat", replica=CANDIDATE, share=1))
    await box.ask()

    assert counted(await box.settled()) == {Skip.BUSY: 2, Skip.NOT_READY: 1}
    box.publish(box.mirror, load=EngineLoad(waiting=0, kv_usage=0.5))
    await box.ask()
    assert (await box.settled()).same == 1


async def test_the_last_places_of_the_candidate_are_for_clients(run_dir: str) -> None:
    async with box_of(run_dir, concurrency=4) as box:
        for _ in range(3):
            box.worker.meter.on_replica(box.plan.replica(CANDIDATE), 1)
        await box.ask()
        assert counted(await box.settled()) == {Skip.NO_PLACE: 1}


Ending = Callable[[Box], None]
ENDINGS: dict[str, tuple[Skip, Ending]] = {
    "the shadow is over": (Skip.OVER, lambda box: box.publish()),
    "another one is on": (Skip.OVER, lambda box: box.publish(Mirror(id="2", model="chat", replica=STABLE, share=1))),
    "the worker ends": (Skip.DRAINING, lambda box: box.worker.shadows.leave()),
}


@pytest.mark.parametrize("case", ENDINGS)
async def test_what_is_queued_or_on_its_way_is_given_up_and_counted(box: Box, case: str) -> None:
    reason, end = ENDINGS[case]
    box.other.answers(HANG)
    for _ in range(MOST_WAITING + module.AT_ONCE + 2):
        await box.ask(CHAT)
        async with asyncio.timeout(60):
            while len(box.other.requests) < min(module.AT_ONCE, box.results().requests):  # noqa: ASYNC110 - a number
                await asyncio.sleep(0.001)
    assert counted(box.results()) == {Skip.QUEUE_FULL: 2}
    end(box)
    await box.ask(CHAT)

    found = counted(await box.settled())

    late = {Skip.DRAINING: 1} if reason is Skip.DRAINING else {}
    assert found[Skip.QUEUE_FULL] == 2
    assert found[reason] == MOST_WAITING + module.AT_ONCE + late.get(reason, 0)


async def test_an_answer_that_ends_after_its_shadow_is_not_compared(box: Box) -> None:
    gate = threading.Event()
    box.own.answers(gate, chat_answer())
    task = asyncio.ensure_future(box.ask(CHAT))
    async with asyncio.timeout(60):
        while not box.own.requests:  # noqa: ASYNC110 - a number
            await asyncio.sleep(0.001)
    box.publish()
    gate.set()
    await task

    assert counted(await box.settled()) == {Skip.OVER: 1}


async def test_a_request_that_waits_takes_the_place_of_a_shadow(box: Box) -> None:
    box.other.answers(HANG)
    await box.ask(CHAT)
    async with asyncio.timeout(60):
        while not box.other.requests:  # noqa: ASYNC110 - a number
            await asyncio.sleep(0.001)
    box.worker.shadows.make_way()
    assert box.results().waiting == 1
    box.worker.meter.queued("chat", 1)
    box.worker.shadows.make_way()

    assert counted(await box.settled()) == {Skip.BUSY: 1}


async def test_a_shadow_that_cannot_be_compared_ends_no_other(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise NotReadyError("unforeseen")

    with monkeypatch.context() as patched:
        patched.setattr(module, "compared", fails)
        await box.ask()
        assert (await box.settled()).failures == {"engine": 1}
    await box.ask()
    assert (await box.settled()).same == 1


async def test_a_worker_that_died_has_lost_its_shadows_and_the_next_one_says_so(box: Box) -> None:
    box.other.answers(HANG)
    await box.ask(CHAT)
    assert box.results().waiting == 1
    box.worker.board.close()  # its row is free
    following = Worker(box.plan, Keys())
    try:
        found = box.results()
        assert (found.waiting, counted(found)) == (0, {Skip.WORKER_LOST: 1})
    finally:
        box.worker.board = following.board


def test_every_count_has_its_place() -> None:
    assert sorted(PLACES.values()) == list(range(len(PLACES)))

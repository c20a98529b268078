"""The limits of keys, at their beginning and end: what waits, what is rejected and how, and what a request has cost."""

import asyncio
import dataclasses
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from msgspec.structs import replace
from starlette.types import Message

from berth.apis.anthropic.endpoints import AnthropicMessages
from berth.apis.base import ApiFormat
from berth.apis.ollama.chat import OllamaChat
from berth.apis.openai.chat import OpenaiChat
from berth.canonical import InferenceRequest, Operation, Usage
from berth.errors import BudgetError, RateLimitError
from berth.ipc.journal import LIMITED as LIMITED_FLAG
from berth.ipc.key_counters import CHARGED, IN_FLIGHT, KEY_WIDTH, LIMITED, REQUESTS_USED, TOKENS_USED, WAITS
from berth.plan import ApiKey, Keys
from berth.router.balancing.admission import Admission
from berth.router.balancing.limits import Limits, next_start
from berth.router.balancing.upstreams import Upstreams
from berth.router.exchange.inflight import InflightRequests
from berth.router.exchange.request import RequestContext
from berth.router.telemetry.metrics import Meter, layout
from berth.router.telemetry.shared_counters import Scoreboard
from tests.fakes.key_board import key_board
from tests.fakes.router import LIMITS, make_plan, replica

pytestmark = pytest.mark.anyio


class Setup:
    def __init__(self, folder: Path, **limits: Any) -> None:
        own = dataclasses.replace(LIMITS, **limits)
        self.plan = make_plan(str(folder), [replica("m-a", "http://127.0.0.1:1")], limits=own)
        Scoreboard.create(self.plan.paths.scoreboard, layout(self.plan), rows=1)
        self.board = Scoreboard(self.plan.paths.scoreboard, layout(self.plan))
        self.keys = key_board(self.board, self.plan)
        meter = Meter(self.board, self.keys)
        self.admission = Admission(self.plan, Upstreams(self.plan, Keys()), meter)
        self.polls = 0
        self.limits = Limits(self.plan, self.admission, self.keys, self._poll)

    def _poll(self) -> None:
        self.polls += 1

    def call(self, key: ApiKey, *, size: int = 400, api: ApiFormat | None = None, **body: Any) -> RequestContext:
        inflight = InflightRequests().begin(asyncio.Event().wait, _send)  # type: ignore[arg-type] # never received from
        inflight.received_bytes = size
        ctx = RequestContext(api or OpenaiChat(), "x", inflight)
        ctx.accept(InferenceRequest(operation=Operation.CHAT, model="m", body=body), self.plan.models[0], key=key)
        return ctx

    async def admit(self, ctx: RequestContext) -> None:
        if (turn := self.limits.admit(ctx)) is not None:
            await turn

    def end(self, ctx: RequestContext, prompt: int = 0, completion: int = 0, cached: int = 0) -> None:
        ctx.usage = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)
        self.limits.settle(ctx)

    def number(self, place: int, key: ApiKey) -> float:
        return self.keys.row[key.slot * KEY_WIDTH + place]


async def _send(message: Message) -> None:
    raise AssertionError(message)


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    setup = Setup(tmp_path)
    yield setup
    setup.board.close()


def key(**fields: Any) -> ApiKey:
    return ApiKey(**{"name": "alice", "slot": 1, **fields})


MOST_CALLS = {"none": 8, "all": 17}  # functions of Berth, for a request from its beginning to its end


@pytest.mark.parametrize("limits", MOST_CALLS)
async def test_a_request_far_from_its_limits_costs_few_calls(setup: Setup, limits: str) -> None:
    many = {"requests_per_minute": 10**9, "tokens_per_minute": 10**9, "concurrency": 9, "tokens_per_day": 10**9}
    ctx = setup.call(key(**(many if limits == "all" else {})))
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and "/berth/" in frame.f_code.co_filename

    for _ in range(2):  # the first time finds more out
        calls = 0
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            await setup.admit(ctx)
            setup.end(ctx, prompt=100, completion=10)
        finally:
            sys.setprofile(before)
    assert 0 < calls <= MOST_CALLS[limits]


async def test_rate_lets_a_burst_pass_and_the_next_one_wait(setup: Setup) -> None:
    limited = key(requests_per_minute=600, burst_s=0.5)
    for _ in range(5):
        await asyncio.wait_for(setup.admit(setup.call(limited)), 0.05)
    began = time.monotonic()
    delayed = setup.call(limited)
    await setup.admit(delayed)

    assert delayed.flags == LIMITED_FLAG
    assert 0.01 < time.monotonic() - began < 2
    assert setup.number(WAITS, limited) == 1


@pytest.mark.parametrize(
    ("api", "first"),
    [
        (OpenaiChat(), {b"x-ratelimit-limit-requests": b"6", b"x-ratelimit-remaining-requests": b"0"}),
        (AnthropicMessages(), {b"anthropic-ratelimit-requests-limit": b"6"}),
        (OllamaChat(), {}),
    ],
    ids=["openai", "anthropic", "ollama"],
)
async def test_rejection_says_what_is_left_in_the_clients_own_headers(
    setup: Setup, api: ApiFormat, first: dict[bytes, bytes]
) -> None:
    limited = key(requests_per_minute=6)
    await setup.admit(setup.call(limited))
    ctx = setup.call(limited, api=api)
    with pytest.raises(RateLimitError, match=r"limit of 6 requests per minute\. Try again in (10\.0|9\.9) s") as caught:
        await setup.admit(ctx)

    assert caught.value.retry_after_s == pytest.approx(10, abs=0.5)
    assert caught.value.should_retry is None
    assert ctx.grant is not None
    headers = dict(ctx.grant.headers)
    assert first.items() <= headers.items()
    assert bool(headers) is bool(first)
    setup.limits.settle(ctx)
    assert (setup.number(LIMITED, limited), setup.number(IN_FLIGHT, limited)) == (1, 1)


async def test_concurrent_requests_do_not_pass_a_token_rate_together(setup: Setup) -> None:
    """Each has not used anything when the next one comes."""
    limited = key(tokens_per_minute=100, burst_s=60)
    calls = [setup.call(limited, size=80, max_tokens=155) for _ in range(5)]
    results = await asyncio.gather(*map(setup.admit, calls), return_exceptions=True)

    assert [isinstance(result, RateLimitError) for result in results] == [False, True, True, True, True]
    setup.end(calls[0], prompt=20, completion=10)
    await setup.admit(setup.call(limited, size=8, max_tokens=10))


async def test_end_replaces_the_estimate(setup: Setup) -> None:
    limited = key(tokens_per_minute=6000, tokens_per_day=10**6)
    ctx = setup.call(limited, size=400, max_tokens=50)
    await setup.admit(ctx)
    assert setup.number(TOKENS_USED, limited) == pytest.approx((100 + 50) / 100)
    setup.end(ctx, prompt=1000, cached=1000, completion=20)

    assert setup.number(TOKENS_USED, limited) == pytest.approx(120 / 100)  # a cached token counts as a tenth
    assert setup.number(CHARGED, limited) == pytest.approx(120)


async def test_a_stream_that_is_broken_off_counts_what_was_sent(setup: Setup) -> None:
    limited = key(tokens_per_minute=6000)
    ctx = setup.call(limited)
    await setup.admit(ctx)
    ctx.frames = 7
    setup.limits.settle(ctx)

    assert (ctx.usage, setup.number(CHARGED, limited)) == (Usage(prompt_tokens=100, completion_tokens=7), 107)


async def test_a_request_that_never_ran_costs_no_tokens(setup: Setup) -> None:
    limited = key(tokens_per_minute=6000)
    ctx = setup.call(limited)
    await setup.admit(ctx)
    setup.limits.settle(ctx)

    assert [setup.number(place, limited) for place in (TOKENS_USED, CHARGED, IN_FLIGHT)] == [0, 0, 0]


async def test_token_rate_holds_in_the_long_run_whatever_the_estimates(setup: Setup) -> None:
    """The estimates are far too low, and then far too high: what was used is what the bucket has lost."""
    limited = key(tokens_per_minute=10**6, burst_s=60)
    used = 0
    for completion in (9000, 9000, 5, 5, 5, 4000):
        ctx = setup.call(limited, size=4)
        await setup.admit(ctx)
        setup.end(ctx, prompt=1, completion=completion)
        used += 1 + completion

    assert setup.number(TOKENS_USED, limited) == pytest.approx(used * 60 / 10**6)


@pytest.mark.parametrize("period", ["day", "month"])
async def test_a_used_budget_tells_clients_not_to_retry(setup: Setup, period: str) -> None:
    limited = key(**{f"tokens_per_{period}": 100, f"{period}_from": 1000.0})
    setup.keys.row[KEY_WIDTH + CHARGED] = 1099.0
    await setup.admit(setup.call(limited))
    setup.keys.row[KEY_WIDTH + CHARGED] = 1100.0
    with pytest.raises(BudgetError, match=f"100 tokens of this {period}") as caught:
        await setup.admit(setup.call(limited))

    error = caught.value
    assert (error.status, error.code, error.should_retry, error.retry_after_s) == (
        429,
        "insufficient_quota",
        False,
        None,
    )


async def test_requests_at_a_time_wait_in_order(setup: Setup) -> None:
    limited = key(concurrency=2)
    calls = [setup.call(limited) for _ in range(4)]
    for ctx in calls[:2]:
        await setup.admit(ctx)
    waiting = [asyncio.create_task(setup.admit(ctx)) for ctx in calls[2:]]
    await asyncio.sleep(0.01)
    assert ([task.done() for task in waiting], setup.limits.waiting, setup.polls) == ([False, False], True, 2)

    setup.limits.settle(calls[0])
    await waiting[0]
    assert not waiting[1].done()
    setup.keys.row[KEY_WIDTH + IN_FLIGHT] -= 1  # as another worker would
    setup.limits.poll()
    await waiting[1]
    assert not setup.limits.waiting


async def test_a_client_that_leaves_gives_its_place_to_the_next(setup: Setup) -> None:
    limited = key(concurrency=1)
    first, second, third = (setup.call(limited) for _ in range(3))
    await setup.admit(first)
    waiting = [asyncio.create_task(setup.admit(ctx)) for ctx in (second, third)]
    await asyncio.sleep(0.01)
    setup.limits.settle(first)  # the second has the place, and leaves in the same moment
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    setup.limits.settle(second)
    await waiting[1]

    assert (setup.number(IN_FLIGHT, limited), setup.limits.waiting) == (1, False)


async def test_waiting_for_a_place_ends(tmp_path: Path) -> None:
    setup = Setup(tmp_path, queue_timeout_s=0.05, queue_size=1)
    limited = key(concurrency=1)
    await setup.admit(setup.call(limited))
    patient = asyncio.create_task(setup.admit(setup.call(limited)))
    await asyncio.sleep(0)
    with pytest.raises(RateLimitError, match=r"1 more wait \(BERTH_QUEUE_SIZE\)"):
        await setup.admit(setup.call(limited))
    with pytest.raises(RateLimitError, match=r"for 0.05 s \(BERTH_QUEUE_TIMEOUT\)"):
        await patient
    assert (setup.number(IN_FLIGHT, limited), setup.limits.waiting) == (1, False)
    setup.board.close()


@pytest.mark.parametrize(
    ("period", "now", "start"),
    [
        ("day", (2026, 12, 31, 23, 59), (2027, 1, 1)),
        ("month", (2026, 12, 1, 0, 0), (2027, 1, 1)),
        ("month", (2026, 1, 31, 5, 0), (2026, 2, 1)),
    ],
)
def test_periods_begin_at_midnight(period: str, now: tuple[int, ...], start: tuple[int, ...]) -> None:
    moment = datetime(*now, tzinfo=UTC)  # type: ignore[misc,arg-type] # year to minute
    assert next_start(period, moment) == datetime(*start, tzinfo=UTC)  # type: ignore[misc,arg-type]


async def test_a_stream_that_waits_for_a_place_gets_heartbeats(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth.router.balancing.limits.HEARTBEAT_S", 0.02)
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    limited = key(concurrency=1)
    first, waiting = setup.call(limited), setup.call(limited, stream=True)
    waiting.inflight = InflightRequests().begin(asyncio.Event().wait, send)  # type: ignore[arg-type] # never received from
    waiting.request = replace(waiting.request, stream=True)
    await setup.admit(first)
    task = asyncio.create_task(setup.admit(waiting))
    async with asyncio.timeout(10):
        while not any(b"queued, position 1" in body for body in sent):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
    setup.limits.settle(first)
    await task


async def test_an_estimate_is_no_more_than_the_context_holds(setup: Setup) -> None:
    ctx = setup.call(key(), size=10**6)
    ctx.route = dataclasses.replace(ctx.route, context=50)
    await setup.admit(ctx)

    assert ctx.grant is not None
    assert (ctx.grant.prompt, ctx.grant.answer) == (50, 50)


async def test_a_request_that_generates_nothing_is_expected_to_cost_its_prompt(setup: Setup) -> None:
    ctx = setup.call(key(), size=400)
    ctx.request = replace(ctx.request, operation=Operation.EMBEDDING)
    await setup.admit(ctx)

    assert ctx.grant is not None
    assert (ctx.grant.prompt, ctx.grant.answer, ctx.grant.price) == (100, 0, 100)


async def test_tokens_that_are_not_there_give_the_request_back(setup: Setup) -> None:
    limited = key(requests_per_minute=60, tokens_per_minute=60, burst_s=60)
    await setup.admit(setup.call(limited, size=4, max_tokens=600))
    used = setup.number(REQUESTS_USED, limited)
    with pytest.raises(RateLimitError, match="60 tokens per minute"):
        await setup.admit(setup.call(limited, size=4, max_tokens=600))

    assert setup.number(REQUESTS_USED, limited) == pytest.approx(used)


async def test_limits_of_a_key_that_has_changed_hold_at_once(setup: Setup) -> None:
    await setup.admit(setup.call(key(requests_per_minute=6000)))
    await setup.admit(setup.call(key(requests_per_minute=1, burst_s=0)))  # the new rate counts what was used as its own
    with pytest.raises(RateLimitError, match="1 requests per minute"):
        await setup.admit(setup.call(key(requests_per_minute=1, burst_s=0)))

    used_up = setup.call(key())
    await setup.admit(used_up)
    setup.end(used_up, prompt=10)
    rejected = setup.call(key(tokens_per_month=10))
    with pytest.raises(BudgetError, match="10 tokens of this month"):
        await setup.admit(rejected)
    assert (used_up.flags, rejected.flags) == (0, LIMITED_FLAG)
    await setup.admit(setup.call(key(tokens_per_month=10, month_from=10)))  # the next month


async def test_others_may_hold_the_places_that_are_not_seen_yet(setup: Setup) -> None:
    """Near the limit a worker looks twice; one that is refused gives back what it has counted."""
    limited = key(concurrency=2)
    first, second, third = (setup.call(limited) for _ in range(3))
    await setup.admit(first)
    await setup.admit(second)
    waits = asyncio.ensure_future(setup.admit(third))
    await asyncio.sleep(0)
    assert [bool(ctx.flags & LIMITED_FLAG) for ctx in (first, second, third)] == [False, False, True]
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    assert setup.number(IN_FLIGHT, limited) == 2

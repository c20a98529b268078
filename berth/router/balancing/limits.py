"""The limits of a client's key: rates, requests at a time, and the tokens of a day and a month. Over all workers.

A request over a rate waits, if its turn comes within LONGEST_WAIT_S. It takes its part of the rate before it waits, so
that all that wait for the same key are let through one by one. Later ones are rejected, with the exact time.

How many tokens a request uses is known at its end. At its start the rate is charged with an estimate: for the prompt
by the size of the body and what the client's tokens have been so far, for the response what the client's have been and
half as much again, but not more than the request allows. The end puts it right. What exceeds the rate is owed: later
requests wait for it. So the rate holds in the long run, and the estimates only decide how even it is.

A request over `concurrency` waits in order, up to BERTH_QUEUE_TIMEOUT. The tokens of a day or month are compared with
what has been used so far: the last request before the end may exceed them.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from berth.apis.base import ApiFormat
from berth.apis.stream_events import HEARTBEAT_S
from berth.canonical import Operation, Usage
from berth.errors import BudgetError, RateLimitError
from berth.ipc.journal import LIMITED
from berth.ipc.key_counters import CHARGED, IN_FLIGHT, KEY_WIDTH, LAST_USED, REQUESTS_USED, TOKENS_USED, charge
from berth.plan import ApiKey, Plan
from berth.router.balancing.admission import Admission
from berth.router.balancing.fairness import RESPONSE_WEIGHT, cost
from berth.router.balancing.rates import Bucket
from berth.router.exchange.limit_headers import Left, Writer, writer_for
from berth.router.exchange.request import Grant, RequestContext
from berth.router.telemetry.key_board import KeyBoard

LONGEST_WAIT_S: Final = 5.0
RETRY_S: Final = 1.0  # of a request for which there was no place
_GENERATING: Final = frozenset({Operation.CHAT, Operation.COMPLETION})
_FIRST_RATIO: Final = 0.25  # tokens per byte of a body
_FIRST_ANSWER: Final = 300.0  # tokens
_MORE: Final = 1.5  # than the mean response is reserved
_WEIGHT_OF_NEW: Final = 0.1  # in the means of a client
_SHORTEST_S: Final = 0.001


class Client:
    """What this worker knows of one client, and what its limits come to: they are worked out once, not per request."""

    __slots__ = (
        *("answer", "at", "each_s", "ends", "key", "ratio", "request_burst_s", "requests", "token_s", "tokens"),
        *("waiting", "watched"),
    )

    def __init__(self, board: KeyBoard, key: ApiKey) -> None:
        self.at = key.slot * KEY_WIDTH  # the first of its numbers
        self.requests = Bucket(board, self.at + REQUESTS_USED)
        self.tokens = Bucket(board, self.at + TOKENS_USED)
        self.ratio = _FIRST_RATIO
        self.answer = _FIRST_ANSWER
        self.waiting: deque[tuple[RequestContext, asyncio.Future[None]]] = deque()  # for a place among its requests
        self.resolve(key)

    def resolve(self, key: ApiKey) -> None:
        """From now on these are its limits."""
        self.key = key
        per_minute, tokens_per_minute = key.requests_per_minute, key.tokens_per_minute
        self.each_s = 60.0 / per_minute if per_minute else 0.0  # of the rate, for a request
        self.request_burst_s = max(self.each_s, key.burst_s)
        self.token_s = 60.0 / tokens_per_minute if tokens_per_minute else 0.0  # for a token
        # where the counter of tokens is when the first of its budgets is used up
        self.ends = min((began + limit for limit, began, _ in key.budgets), default=math.inf)
        self.watched = bool(key.budgets or per_minute or tokens_per_minute)  # the counters of all workers matter

    def used_up(self, board: KeyBoard, used: float) -> BudgetError:
        """Counts it, and says so: the day before the month. `used`: what the counter of tokens says."""
        key = self.key
        *_, (limit, _, period) = (one for one in key.budgets if used - one[1] >= one[0])
        board.limited(key.slot, period)
        begins = next_start(period, datetime.now().astimezone()).isoformat(timespec="minutes")
        return BudgetError(
            f"The API key {key.name!r} has used its {limit} tokens of this {period}. The next one begins at {begins}.",
            should_retry=False,
        )

    def estimate(self, ctx: RequestContext) -> Grant:
        prompt, context = ctx.inflight.received_bytes * self.ratio, ctx.route.context
        if context is not None and prompt > context:
            prompt = float(context)
        answer, request = 0.0, ctx.request
        if request.operation in _GENERATING:
            answer, body = _MORE * self.answer, request.body
            most = body.get("max_completion_tokens") or body.get("max_tokens") or context
            if most and answer > most:
                answer = most
        return Grant(prompt, answer, (prompt + RESPONSE_WEIGHT * answer) / ctx.key.share)  # as `cost`


class Limits:
    def __init__(self, plan: Plan, admission: Admission, board: KeyBoard, on_wait: Callable[[], None]) -> None:
        """`on_wait` is called when a request waits for others of its client: from then on `poll` has to be called while
        any is `waiting`.
        """
        self._limits = plan.limits
        self._admission = admission
        self._board = board
        self._on_wait = on_wait
        self._clients: dict[int, Client] = {}
        self._keys: dict[int, ApiKey] = {}  # of those with waiting requests
        self._writers: dict[ApiFormat, Writer] = {}  # of the headers

    def admit(self, ctx: RequestContext) -> Coroutine[Any, Any, None] | None:
        """The request of a client with a key may be served once the result has been awaited, or at once if there is
        none; `settle` it in any case. RateLimitError if it may not be served.
        """
        key = ctx.key
        client = self._clients.get(key.slot)
        if client is None:
            client = self._clients[key.slot] = Client(self._board, key)
        elif client.key is not key:  # the file of the keys has changed, or a day has begun
            client.resolve(key)
        grant = ctx.grant = client.estimate(ctx)
        self._board.row[client.at + LAST_USED] = time.time()
        if client.watched:
            rows = self._board.used
            if client.ends < math.inf:
                used, at = 0.0, client.at + CHARGED
                for row in rows:
                    used += row[at]
                if used >= client.ends:
                    ctx.flags |= LIMITED
                    raise client.used_up(self._board, used)
            if wait_s := self._reserve(ctx, client, grant, rows):

                async def later() -> None:
                    await asyncio.sleep(wait_s)
                    self._board.waited(key.slot, wait_s)
                    if (place := self._count(ctx, client, grant)) is not None:
                        await place

                return later()
        return self._count(ctx, client, grant)

    def _count(self, ctx: RequestContext, client: Client, grant: Grant) -> Coroutine[Any, Any, None] | None:
        """As one of the client's requests at a time; the result waits for a place among them."""
        key = ctx.key
        if key.concurrency:
            if client.waiting or not self._claim(key):
                ctx.flags |= LIMITED
                return self._wait(ctx, client, grant)
        else:
            self._board.row[client.at + IN_FLIGHT] += 1
        grant.running = True
        return None

    def settle(self, ctx: RequestContext) -> None:
        """The request is over."""
        grant, key = ctx.grant, ctx.key
        if grant is None:
            return
        client, row = self._clients[key.slot], self._board.row
        at = client.at
        if grant.running:
            row[at + IN_FLIGHT] -= 1
            if client.waiting:
                self._let_in(client)
        usage = ctx.usage
        if ctx.frames and not usage.completion_tokens:  # a stream that was broken off counts what was sent
            usage = ctx.usage = Usage(prompt_tokens=int(grant.prompt), completion_tokens=ctx.frames)
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        charged = charge(prompt, usage.cached_tokens, completion) if usage.cached_tokens else prompt + completion
        row[at + CHARGED] += charged
        if grant.reserved:
            row[at + TOKENS_USED] += (charged - grant.reserved) * client.token_s
        if prompt and (received := ctx.inflight.received_bytes):
            client.ratio += _WEIGHT_OF_NEW * ((charged - completion) / received - client.ratio)
        if completion:
            client.answer += _WEIGHT_OF_NEW * (completion - client.answer)
        if grant.queued:
            self._admission.settle(ctx, cost(prompt, usage.cached_tokens, completion))

    @property
    def waiting(self) -> bool:
        return bool(self._keys)

    def poll(self) -> None:
        """For the places that other workers have freed."""
        for slot in tuple(self._keys):
            self._let_in(self._clients[slot])

    def _reserve(self, ctx: RequestContext, client: Client, grant: Grant, rows: "Sequence[memoryview[float]]") -> float:
        """Takes the request's part of the rates; returns how long it has to wait. RateLimitError if that is long."""
        key, now = ctx.key, time.monotonic()
        lefts: list[Left] = []
        wait_s = token_wait_s = 0.0
        if each_s := client.each_s:
            burst_s = client.request_burst_s
            wait_s, level = client.requests.take(each_s, now, burst_s, LONGEST_WAIT_S, rows)
            lefts.append(("requests", key.requests_per_minute, level / each_s, burst_s - level))
        if (token_s := client.token_s) and wait_s <= LONGEST_WAIT_S:
            tokens, burst_s = grant.prompt + grant.answer, key.burst_s
            token_wait_s, level = client.tokens.take(tokens * token_s, now, burst_s, LONGEST_WAIT_S, rows)
            lefts.append(("tokens", key.tokens_per_minute, level / token_s, burst_s - level))
            if token_wait_s <= LONGEST_WAIT_S:
                grant.reserved = tokens
            elif each_s:
                client.requests.add(-each_s)
        if lefts:
            writer = self._writers.get(ctx.api)
            if writer is None:
                writer = self._writers[ctx.api] = writer_for(ctx.api)
            grant.headers = writer(lefts)
        due_s = token_wait_s if token_wait_s > wait_s else wait_s  # noqa: FURB136 - max() would be a call
        if due_s:
            ctx.flags |= LIMITED
        if due_s > LONGEST_WAIT_S:
            kind = "requests" if wait_s > LONGEST_WAIT_S else "tokens"
            self._board.limited(key.slot, kind)
            raise RateLimitError(
                f"The API key {key.name!r} has a limit of {lefts[-1][1]} {kind} per minute. Try again in "
                f"{due_s:.1f} s.",
                retry_after_s=due_s,
            )
        return due_s

    # requests at a time

    def _claim(self, key: ApiKey) -> bool:
        """Counts the request; not if there are as many already."""
        board, at, total = self._board, key.slot * KEY_WIDTH + IN_FLIGHT, 0.0
        board.row[at] += 1
        live = board.live
        for row in live:
            total += row[at]
        # As for rates: each of the others may have one that is not seen yet, which matters near the limit only.
        if total <= key.concurrency - len(live) + 1:
            return True
        with board.fence:
            pass
        if board.in_flight(key.slot) > key.concurrency:
            board.row[at] -= 1
            return False
        return True

    def _let_in(self, client: Client) -> None:
        while client.waiting:
            ctx, place = client.waiting[0]
            if not self._claim(ctx.key):
                return
            client.waiting.popleft()
            place.set_result(None)
        self._keys = {slot: key for slot, key in self._keys.items() if self._clients[slot].waiting}

    async def _wait(self, ctx: RequestContext, client: Client, grant: Grant) -> None:
        """For a place. The request is counted then."""
        key, limit_s = ctx.key, self._limits.queue_timeout_s
        if len(client.waiting) >= self._limits.queue_size:
            raise self._crowded(key, f"and {len(client.waiting)} more wait (BERTH_QUEUE_SIZE)")
        since = time.monotonic()
        place = asyncio.get_running_loop().create_future()
        entry = ctx, place
        client.waiting.append(entry)
        self._keys[key.slot] = key
        self._on_wait()
        ends, heartbeat = since + limit_s, since + HEARTBEAT_S
        try:
            while not place.done():
                now = time.monotonic()
                if now >= ends:
                    raise self._crowded(key, f"for {limit_s:g} s (BERTH_QUEUE_TIMEOUT)")  # noqa: TRY301 - as a timeout
                if now >= heartbeat:
                    heartbeat += HEARTBEAT_S
                    if ctx.request.stream:
                        await ctx.heartbeat(f"queued, position {client.waiting.index(entry) + 1}")
                await asyncio.wait([place], timeout=max(min(ends, heartbeat) - now, _SHORTEST_S))
        except BaseException:  # the client disconnected, or it took too long
            if place.done():
                self._board.row[key.slot * KEY_WIDTH + IN_FLIGHT] -= 1
            else:
                client.waiting.remove(entry)
            self._let_in(client)
            raise
        self._board.waited(key.slot, time.monotonic() - since)
        grant.running = True

    def _crowded(self, key: ApiKey, how: str) -> RateLimitError:
        self._board.limited(key.slot, "concurrency")
        return RateLimitError(
            f"The API key {key.name!r} may have {key.concurrency} requests at a time, and had as many {how}.",
            retry_after_s=RETRY_S,
        )


def next_start(period: str, now: datetime) -> datetime:
    """Of a day or a month, in the time zone of `now`."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return midnight + timedelta(days=1)
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)

"""The shadows of one worker: which requests are sent to another replica too, when, and what came of it.

A request is chosen by a hash of its conversation when it is accepted. When its client has the response, it waits here
for one of AT_ONCE places, of which each worker has its own. Clients come first at any time: while requests wait
for the model, or an engine of it is busy, nothing is sent, and what is on its way is given up. Every request that was
chosen and not compared is counted with its reason.
"""

import asyncio
import hashlib
import time
import uuid
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from berth.canonical import InferenceRequest
from berth.ipc import shadow_counts
from berth.ipc.shadow import FAILURES, PLACES, WIDTH, Counts, Mirror, Result, Skip
from berth.ipc.shadow_results import of_mirror
from berth.log import log
from berth.plan import ModelRoute, Plan
from berth.router.balancing import affinity
from berth.router.balancing.upstreams import SHARES, Upstream, Upstreams
from berth.router.exchange.mirrored import Mirrored
from berth.router.exchange.request import RequestContext
from berth.router.shadowing import answers
from berth.router.shadowing.asking import NotAnsweredError, NotAskedError, asked
from berth.router.shadowing.comparison import Side, compared
from berth.router.shadowing.eligibility import ineligible, is_busy, unusable
from berth.router.telemetry.metrics import Meter

AT_ONCE: Final = 4
MOST_WAITING: Final = 64
ROOM_BYTES: Final = 32 << 20  # for answers that are kept until they are compared
LEAST_S: Final = 30.0  # the candidate has as long, or
TIMES: Final = 4.0  # so many times as long as the client's replica took
FREE_SHARE: Final = 0.25  # of the candidate's places is for clients


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirroring:
    """A shadow that is on."""

    mirror: Mirror
    upstream: Upstream
    share: int  # of SHARES
    salt: bytes
    at: int  # where its model's counts are
    replicas: tuple[str, ...]  # of the model


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """A request whose client has its response."""

    one: Mirroring
    route: ModelRoute
    request: InferenceRequest
    mirrored: Mirrored
    number: str  # the id of the client's request
    headers: Mapping[str, str]  # of the request to the candidate
    tokens: int
    first_token_s: float | None
    duration_s: float
    scope: asyncio.Timeout | None = None  # of the request that is on its way
    dropped: Skip | None = None


@dataclass(slots=True)
class _Jobs:
    waiting: deque[Job] = field(default_factory=deque)
    running: set[Job] = field(default_factory=set)
    new: asyncio.Event = field(default_factory=asyncio.Event)


class Shadows:
    """`current` is empty while no shadow is on: then nothing here is called."""

    def __init__(self, plan: Plan, upstreams: Upstreams, meter: Meter, row: int) -> None:
        """`row`: this worker's of the scoreboard. OSError when the file of the counts cannot be used."""
        self._plan = plan
        self._upstreams = upstreams
        self._meter = meter
        self._rows = shadow_counts.rows(plan)
        self._row = self._rows[row]
        shadow_counts.lose(self._row, len(plan.models))
        self._jobs = _Jobs()
        self._is_leaving = False
        self.room_bytes = ROOM_BYTES
        self.mirrors: tuple[Mirror, ...] = ()
        self.current: Mapping[str, Mirroring] = {}  # by route

    def update(self, mirrors: tuple[Mirror, ...]) -> None:
        """As control has published them."""
        numbers = {route.name: number for number, route in enumerate(self._plan.models)}
        replicas = {route.name: route.replicas for route in self._plan.models}
        own = {
            one.model: Mirroring(
                mirror=one,
                upstream=self._upstreams.of(one.replica),
                share=int(one.share * SHARES),
                salt=one.id.encode(),
                at=numbers[one.model] * WIDTH,
                replicas=replicas[one.model],
            )
            for one in mirrors
        }
        bases = {route.name: route.base or route.name for route in self._plan.routes}
        self.mirrors, self.current = mirrors, {name: own[base] for name, base in bases.items() if base in own}
        self._drop(Skip.OVER, {one.id for one in mirrors})

    def leave(self) -> None:
        """The worker ends: it is about its clients alone from now on."""
        self._is_leaving = True
        self._drop(Skip.DRAINING)

    def begin(self, ctx: RequestContext) -> Mirrored | None:
        """A request of a model with a shadow is accepted. None: it is not mirrored."""
        one = self.current[ctx.route.name]
        self._row[one.at] += 1
        conversation = ctx.session or affinity.session(ctx.headers, ctx.request) or ctx.request_id.encode()
        drawn = hashlib.blake2b(conversation, digest_size=4, key=one.salt).digest()
        if int.from_bytes(drawn, "big") >= one.share:
            self._row[one.at + 1] += 1
            return None
        reason = ineligible(ctx.request, ctx.headers, ctx.inflight.received_bytes + ctx.request.earlier_bytes)
        if reason is not None:
            self._count(one.at, f"skipped {reason}")
            return None
        return Mirrored(one.mirror.id, one.at, self._take)

    def end(self, mirrored: Mirrored, ctx: RequestContext) -> None:
        """Its client has the response, or left."""
        one = self.current.get(ctx.route.name)
        if one is None or one.mirror.id != mirrored.shadow:
            self._skip(mirrored, Skip.OVER)
            return
        reason = unusable(mirrored, ctx, one.mirror.replica) or self._hindrance(one)
        if reason is None and len(self._jobs.waiting) >= MOST_WAITING:
            reason = Skip.QUEUE_FULL
        if reason is not None:
            self._skip(mirrored, reason)
            return
        waited_s = ctx.began - ctx.since  # for its replica
        job = Job(
            one=one,
            route=ctx.route,
            request=replace(ctx.request, include_usage=True),
            mirrored=mirrored,
            number=ctx.request_id,
            headers=self._headers(one.upstream, ctx),
            tokens=ctx.usage.completion_tokens,
            first_token_s=None if ctx.first_token_s is None else ctx.first_token_s - waited_s,
            duration_s=time.monotonic() - ctx.began,
        )
        self._jobs.waiting.append(job)
        self._jobs.new.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work())

    def make_way(self) -> None:
        """Requests wait, perhaps for a place that a shadow has."""
        for job in self._jobs.running:
            if self._meter.queue_length(job.one.mirror.model):
                self._give_up(job, Skip.BUSY)

    def totals(self) -> Mapping[str, Counts]:
        """Of all workers since boot, by model."""
        return {one.name: shadow_counts.totals(self._rows, place) for place, one in enumerate(self._plan.models)}

    def documents(self) -> Mapping[str, Mapping[str, Any]]:
        """Of the shadows that are on, by model: what they have found so far."""
        totals, now = self.totals() if self.mirrors else {}, time.time()
        return {one.model: msgspec.to_builtins(of_mirror(one, totals[one.model], now)) for one in self.mirrors}

    def close(self) -> None:
        for row in self._rows:
            row.release()

    async def _work(self) -> None:
        jobs = self._jobs
        while True:
            while not jobs.waiting:
                jobs.new.clear()
                await jobs.new.wait()
            job = jobs.waiting.popleft()
            jobs.running.add(job)
            found: Mapping[str, float] = {f"skipped {Skip.DRAINING}": 1}  # if it is cancelled
            try:
                reason = self._hindrance(job.one)
                found = {f"skipped {reason}": 1} if reason is not None else await self._compare(job)
            except Exception:  # noqa: BLE001 - the boundary of a shadow: the worker continues
                found = {f"result {Result.ERROR}": 1, "failed engine": 1}
                log.exception(
                    "shadow not compared", request=job.headers["x-request-id"], replica=job.one.mirror.replica
                )
            finally:
                jobs.running.discard(job)
                self.room_bytes += job.mirrored.held_bytes
                for name, value in found.items():
                    self._count(job.one.at, name, value)

    async def _compare(self, job: Job) -> Mapping[str, float]:
        """What to add to which cells."""
        upstream = job.one.upstream
        self._meter.on_replica(upstream.replica, 1)
        try:
            async with asyncio.timeout(max(LEAST_S, TIMES * job.duration_s)) as job.scope:
                other = await asked(upstream, job.request, job.route, job.headers)
        except TimeoutError:
            if job.dropped is not None:
                return {f"skipped {job.dropped}": 1}
            return {f"result {Result.ERROR}": 1, "failed timeout": 1}
        except NotAskedError as error:
            return {f"skipped {error.reason}": 1}
        except NotAnsweredError as error:
            kind = error.outcome.value if error.outcome.value in FAILURES else "engine"
            return {f"result {Result.ERROR}": 1, f"failed {kind}": 1}
        finally:
            job.scope = None
            self._meter.on_replica(upstream.replica, -1)
        result, found = await asyncio.to_thread(_compared, job, other)
        return {**found, f"result {result}": 1}

    def _hindrance(self, one: Mirroring) -> Skip | None:
        """Why nothing is sent to the candidate now."""
        mirror, upstream, statuses = one.mirror, one.upstream, self._upstreams.statuses
        latest = self.current.get(mirror.model)
        if self._is_leaving:
            return Skip.DRAINING
        if latest is None or latest.mirror.id != mirror.id:
            return Skip.OVER
        if not latest.mirror.ready:
            return Skip.NOT_READY
        if self._meter.queue_length(mirror.model) or any(is_busy(statuses[name].load) for name in one.replicas):
            return Skip.BUSY
        if upstream.limit and self._meter.load(upstream.replica) >= upstream.limit * (1 - FREE_SHARE):
            return Skip.NO_PLACE
        return None

    def _drop(self, reason: Skip, kept: Collection[str] = ()) -> None:
        """The shadows of others than these are over."""
        jobs = self._jobs
        for job in tuple(jobs.waiting):
            if job.one.mirror.id not in kept:
                jobs.waiting.remove(job)
                self._skip(job.mirrored, reason)
        for job in jobs.running:
            if job.one.mirror.id not in kept:
                self._give_up(job, reason)

    def _give_up(self, job: Job, reason: Skip) -> None:
        if job.scope is not None and job.dropped is None:
            job.dropped = reason
            job.scope.reschedule(0)

    def _take(self, wanted: int) -> bool:
        if wanted > self.room_bytes:
            return False
        self.room_bytes -= wanted
        return True

    def _skip(self, mirrored: Mirrored, reason: Skip) -> None:
        self.room_bytes += mirrored.held_bytes
        self._count(mirrored.at, f"skipped {reason}")

    @staticmethod
    def _headers(upstream: Upstream, ctx: RequestContext) -> Mapping[str, str]:
        number = str(uuid.uuid4()) if upstream.needs_uuid else f"shadow-{ctx.request_id}"
        hops = {"x-berth-hops": str(ctx.hops + 1)} if upstream.replica.launch is None else {}
        return {"x-request-id": number, **hops}

    def _count(self, at: int, name: str, value: float = 1) -> None:
        self._row[at + PLACES[name]] += value


def _compared(job: Job, other: Side) -> tuple[Result, Mapping[str, float]]:
    data = bytes(job.mirrored.frames)
    answer = answers.of_frames(data) if job.request.stream else answers.of_body(data)
    own = Side(answer=answer, tokens=job.tokens, first_token_s=job.first_token_s, duration_s=job.duration_s)
    return compared(job.request, own, other)

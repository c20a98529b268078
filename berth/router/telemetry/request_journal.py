"""One worker's part of the journal (see berth.ipc.journal): each request when it is over, and those in progress.

Not recorded are requests whose key is missing or wrong: anyone could fill the ring with those.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from berth.canonical import Usage
from berth.ipc import journal
from berth.ipc.journal import (
    NO_ATTEMPT,
    NONE,
    OPERATIONS,
    OVER,
    QUEUED,
    RECEIVING,
    RECORD,
    RING_RECORDS,
    SENT,
    STREAMING,
    Names,
    Reader,
    Tally,
)
from berth.ipc.traffic import workers
from berth.notices import RECENT_S
from berth.plan import Plan
from berth.router.exchange.outcomes import Outcome
from berth.router.exchange.request import CLIENT_GONE, RequestContext

REFRESH_S: Final = 1.0
TALLY_S: Final = 10.0  # how old the tallies may be: to read them takes a millisecond for each worker
LISTED_AFTER_S: Final = 1.0  # most requests are over by then
_UNAUTHORIZED: Final = 401
_WITH_USAGE: Final = frozenset({Outcome.OK, Outcome.CUT, Outcome.PREEMPTED})
_NO_USAGE: Final = Usage()


class RequestJournal:
    """`running` has the requests of this worker, each with the index of its API: who adds one calls `put` at its end.

    `put` is on the path of each request: it takes 2 µs.
    """

    def __init__(self, path: Path, plan: Plan, row: int) -> None:
        """OSError when the file cannot be written."""
        self._map = journal.part_of(path, row)
        self._ring = row * journal.PART_BYTES
        self._table = self._ring + RING_RECORDS * RECORD.size
        self._sequence = journal.newest(self._map, row)
        self._updates = 0  # of records in the table
        self._listed = journal.TABLE_RECORDS  # records in the table: those of a worker that died
        self._models = {route.name: index for index, route in enumerate(plan.routes)}
        self._replicas = {replica.name: index for index, replica in enumerate(plan.replicas)}
        self._rules = {rule.name: number for number, rule in enumerate(plan.rules, 1)}
        self._operations = {operation: index for index, operation in enumerate(OPERATIONS)}
        self._reader = Reader(path, Names(plan, ()))
        self._heartbeats = plan.paths.heartbeats
        self._tallies: tuple[float, Mapping[str, Tally]] = -math.inf, {}  # when they were read
        self.running: dict[RequestContext, int] = {}
        self.refresh()

    def put(self, ctx: RequestContext, api: int, phase: int = OVER, place: int = -1) -> None:
        """`place`: of the record of a request in progress."""
        flags, now, usage, trace = ctx.flags, ctx.ended or time.monotonic(), ctx.usage, ctx.trace
        if place < 0:
            del self.running[ctx]
            if ctx.status == _UNAUTHORIZED:
                return
            sequence = self._sequence = self._sequence + 1
            place = self._ring + sequence % RING_RECORDS * RECORD.size
        else:
            sequence = self._updates = self._updates + 1
        since, operation, form = ctx.inflight.since, ctx.api.operation, None
        if ctx.accepted:
            since, operation, form = ctx.since, ctx.request.operation, ctx.request.body.get("response_format")
            flags |= journal.STREAM if ctx.request.stream else 0
            if type(form) is dict and form.get("type") != "text":
                flags |= journal.SCHEMA
        queue_s = ctx.queue_s + (now - ctx.queued_at if ctx.queued_at else 0.0)
        flags |= (journal.WAITED if queue_s else 0) | (journal.CLIENT_GONE if ctx.status == CLIENT_GONE else 0)
        frames = ctx.frames if ctx.decoder is None else ctx.frames + ctx.decoder.frames
        tokens = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, frames, ctx.moved_at_token)
        codes = (ctx.status, ctx.attempts, flags, api, self._operations[operation], phase, trace.sampled)
        replica = NONE if ctx.served_by is None else self._replicas[ctx.served_by.name]
        previous = NONE if ctx.previous is None else self._replicas[ctx.previous.name]
        decided = 0 if ctx.rule is None else self._rules[ctx.rule.name]
        names = (self._models.get(ctx.model, NONE), ctx.key.slot, replica, previous, decided, *trace[:3])
        times = (self._wall + since, queue_s, -1.0 if ctx.first_token_s is None else ctx.first_token_s, now - since)
        began = (ctx.began - since, ctx.attempt_s) if ctx.attempt_s >= 0 else NO_ATTEMPT
        code = ctx.error_code.encode("utf-8", "replace") if ctx.error_code else b""
        last = (ctx.request_id.encode(), code, *began, sequence)
        RECORD.pack_into(self._map, place, sequence, *times, *tokens, *codes, *names, *last)

    def put_attempt(self, ctx: RequestContext, outcome: Outcome, *, continues: bool) -> None:
        """Of a request with a trace: its last attempt, which is over. `continues`: a stream that was cut. If the first
        one is all that the request needs, the request's own record has it.
        """
        now, trace, request = time.monotonic(), ctx.trace, ctx.request
        if outcome is Outcome.OK and ctx.attempts == 1:
            ctx.attempt_s = now - ctx.began
            return
        sequence = self._sequence = self._sequence + 1
        place = self._ring + sequence % RING_RECORDS * RECORD.size
        flags = journal.ATTEMPT | (journal.STREAM if request.stream else 0)
        if continues:
            flags |= journal.CONTINUED
        elif ctx.attempts > 1:
            flags |= journal.FALLBACK
        usage = ctx.usage if outcome in _WITH_USAGE else _NO_USAGE
        duration_s, first_s = now - ctx.began, -1.0
        if ctx.first_token_s is not None and ctx.since + ctx.first_token_s >= ctx.began:
            first_s = ctx.since + ctx.first_token_s - ctx.began
        times = (self._wall + ctx.began, 0.0, first_s, duration_s)
        tokens = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, 0, 0)
        codes = (0, ctx.attempts, flags, self.running[ctx], self._operations[request.operation], OVER, trace.sampled)
        replica = NONE if ctx.served_by is None else self._replicas[ctx.served_by.name]
        previous = NONE if ctx.previous is None else self._replicas[ctx.previous.name]
        trace_id, span_id = trace[:2]
        spans = (trace_id, (int.from_bytes(span_id) ^ ctx.attempts).to_bytes(8), span_id)  # as journal.attempt_id
        names = (self._models.get(ctx.model, NONE), ctx.key.slot, replica, previous, 0, *spans)
        last = (ctx.request_id.encode(), outcome.encode(), *NO_ATTEMPT, sequence)
        RECORD.pack_into(self._map, place, sequence, *times, *tokens, *codes, *names, *last)

    def refresh(self) -> Mapping[str, int]:
        """Rewrites the table: the oldest requests, as far as there is room. Returns the tokens of streams so far, by
        model.
        """
        now, place, listed = time.monotonic(), self._table, 0
        self._wall = time.time() - now  # a clock that was set is noticed within REFRESH_S
        tokens: dict[str, int] = {}
        for ctx, api in self.running.items():
            if now - ctx.inflight.since < LISTED_AFTER_S:
                break  # those that follow are younger
            ctx.live_tokens = 0 if ctx.decoder is None else ctx.decoder.frames - ctx.decoder.mute
            if ctx.live_tokens:
                tokens[ctx.model] = tokens.get(ctx.model, 0) + ctx.live_tokens
            if listed < journal.TABLE_RECORDS:
                if not ctx.accepted:
                    phase = RECEIVING
                elif ctx.queued_at:
                    phase = QUEUED
                else:
                    phase = SENT if ctx.first_token_s is None else STREAMING
                self.put(ctx, api, phase, place)
                listed, place = listed + 1, place + RECORD.size
        if listed < self._listed:
            unused = (self._listed - listed) * RECORD.size
            self._map[place : place + unused] = bytes(unused)
        self._listed = listed
        return tokens

    def recent(self, now: float) -> Mapping[str, Tally]:
        """How the last requests of all workers ended, by model, for the notices. `now`: Unix seconds."""
        if not 0 <= now - self._tallies[0] < TALLY_S:
            self._tallies = now, self._reader.recent(now - RECENT_S)
        return self._tallies[1]

    def oldest_s(self) -> float:
        """How long the oldest request of all workers has been in progress; 0 if none has for a second."""
        began = self._reader.oldest(workers(self._heartbeats))
        return 0.0 if began is None else max(0.0, time.time() - began)

    def queued_s(self) -> Mapping[str, float]:
        """By model, how long the oldest request of its queue has been in progress, in all workers."""
        now, found = time.time(), dict[str, float]()
        for record in self._reader.running(workers(self._heartbeats)):
            if record.phase == journal.PHASES[QUEUED]:
                found.setdefault(record.model, max(0.0, now - record.start))
        return found

    def close(self) -> None:
        self._reader.close()
        self._map.close()

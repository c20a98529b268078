"""Counts what the routers report of a candidate and of the replica that serves.

Attempts and failures come from the workers' counters: exact, and also those of requests that another replica answered
in the end. Times and lengths come from the journal: of the last requests.
"""

from collections.abc import Iterable
from dataclasses import replace

from berth.ipc import traffic
from berth.ipc.journal import Names, Reader, Record
from berth.ipc.migration import Counts, Migration, Options, Phase
from berth.plan import Plan

USUAL_S = 600.0
_COUNTED = frozenset({Phase.CANARY, Phase.TRIAL, Phase.PROMOTING, Phase.SETTLING})
_TEXT = frozenset({"chat", "completion"})
_WIDTH = 3  # counters of each side: attempts, failures, unfit


class Evidence:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._numbers = {replica.name: number for number, replica in enumerate(plan.replicas)}
        self._reader = Reader(plan.paths.journal, Names(plan, ()))
        self._reader.new()

    def close(self) -> None:
        self._reader.close()

    def recent(self, model: str, now: float) -> tuple[float, float]:
        """Requests per second in the last minute, and the longest of them in seconds. `now`: Unix seconds."""
        ended = [one for one in self._reader.finished() if one.model == model and one.start + one.duration_s > now - 60]
        return len(ended) / 60, max((one.duration_s for one in ended), default=0.0)

    def usual(self, model: str, options: Options, now: float) -> Counts:
        """How many of the model's answers of the last minutes were slow: what a successor is compared with that does
        not run at the same time. Nothing else: other requests have other answers. `now`: Unix seconds.
        """
        found = [
            one
            for one in self._reader.finished()
            if one.model == model and one.start + one.duration_s > now - USUAL_S and is_timed(one)
        ]
        return Counts(timed=len(found), slow=sum(is_slow(one, options) for one in found))

    def counted(self, migrations: Iterable[Migration]) -> list[Migration]:
        """The migrations with what has been reported since the last call."""
        found = list(migrations)
        if not found:
            return found
        plan, (records, _missed) = self._plan, self._reader.new()
        reports = traffic.read_reports(plan.paths.traffic, len(plan.replicas), len(plan.models))
        return [self.with_reports(one, reports, records) if one.phase in _COUNTED else one for one in found]

    def with_reports(self, migration: Migration, reports: list[traffic.Report], records: list[Record]) -> Migration:
        """The migration with what is new in them."""
        sides = [self._numbers[name] for name in (migration.candidate, migration.stable)]
        now = tuple(
            sum(counts[number] for counts in columns)
            for number in sides
            for columns in zip(*((one.attempts, one.failures, one.unfit) for one in reports), strict=True)
        )
        if not reports:
            return migration
        if not migration.seen:
            return replace(migration, seen=now)
        new = [max(0, count - before) for count, before in zip(now, migration.seen, strict=True)]
        own, other = (
            timed(added(counts, new[start : start + _WIDTH]), name, records, migration.options)
            for counts, start, name in (
                (migration.own, 0, migration.candidate),
                (migration.other, _WIDTH, migration.stable),
            )
        )
        return replace(migration, seen=now, own=own, other=migration.other if migration.in_place else other)


def added(counts: Counts, new: list[int]) -> Counts:
    """`new`: attempts, failures and unfit responses."""
    attempts, failures, unfit = new
    return replace(
        counts,
        attempts=counts.attempts + attempts,
        failures=counts.failures + failures,
        unfit=counts.unfit + unfit,
    )


def timed(counts: Counts, replica: str, records: Iterable[Record], options: Options) -> Counts:
    """With the times and lengths of the requests that the replica answered, at their first attempt."""
    for one in records:
        if one.replica != replica or not is_timed(one):
            continue
        tokens = one.completion_tokens
        counts = replace(
            counts,
            timed=counts.timed + 1,
            slow=counts.slow + is_slow(one, options),
            answers=counts.answers + 1,
            empty=counts.empty + (tokens == 0 and "broken" not in one.flags),
            tokens=counts.tokens + tokens,
            tokens_squared=counts.tokens_squared + tokens * tokens,
        )
    return counts


def is_timed(record: Record) -> bool:
    """It has an answer, at its first attempt."""
    return record.attempts == 1 and record.status == 200 and record.operation in _TEXT


def is_slow(record: Record, options: Options) -> bool:
    """Its first token came late, or its tokens did. The time in Berth's queue does not count."""
    duration_s, tokens = record.duration_s - record.queue_s, record.completion_tokens
    if record.first_token_s is None:
        return duration_s > options.first_token_s + tokens * options.token_s
    first_s = record.first_token_s - record.queue_s
    return first_s > options.first_token_s or (tokens > 1 and duration_s - first_s > (tokens - 1) * options.token_s)

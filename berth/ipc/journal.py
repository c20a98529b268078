"""The journal: the last requests of each router worker, and those in progress, without any text of theirs.

A mapped file in the run directory, made by boot. Each worker has a part of it, in the order of their rows in
`heartbeats`: a ring of the RING_RECORDS newest requests that are over, and a table of up to TABLE_RECORDS requests in
progress. Both consist of records of the same form. A worker writes a record when a request is over, and its table once
a second; nothing is written per token. Any number of programs may read it; none of them can slow a writer.

    0    8  sequence, as at the end
    8    8  start                     Unix seconds: when the request was accepted
    16   8  queue_s                   in the queue
    24   8  first_token_s             after the start; -1: none, or not a stream
    32   8  duration_s                until its end, or until now
    40   8  prompt tokens, then completion tokens (48), cached tokens (56), frames of the stream (64)
    72   8  moved_at_token            where the last continuation began
    80   2  status                    HTTP, 0 of an attempt; then attempts (82), flags (84)
    86   1  API, an index into APIS; then operation (87, OPERATIONS), phase (88, PHASES), sampled (89)
    90   2  model, an index into `Plan.routes`; then key (92, 0: anonymous), replica (94), previous replica (96),
            indexes into `Plan.replicas`; NONE: none. Then the rule (98): 1 + an index into `Plan.rules`; 0: none
    104  16 trace id; then span id (120, 8 bytes), the client's span id (128, 8 bytes)
    136  64 request id; then error code (200, 32 bytes; of an attempt its outcome)
    232  8  when the only attempt of a request with a trace began, in seconds after its start; then how long it took
            (240). -1: each attempt has a record of its own, or the request has no trace
    248  8  sequence                  0: no record

A writer begins with the first sequence number and ends with the second one. A reader takes the second one first, and
the first one last: a record that was being written meanwhile has two numbers, and is skipped. In a ring the numbers
count up without a gap, also when another worker continues the part of one that died.
"""

import mmap
import os
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from berth.canonical import Operation
from berth.log_lines import mask_secrets
from berth.plan import Plan

RECORD: Final = struct.Struct("=QddddQQQQQHHHBBBBHHHHH4x16s8s8s64s32sddQ")
RING_RECORDS: Final = 1024
TABLE_RECORDS: Final = 256
PART_BYTES: Final = (RING_RECORDS + TABLE_RECORDS) * RECORD.size
NONE: Final = 0xFFFF
LONG_WAIT_S: Final = 10.0  # in the queue
NO_ATTEMPT: Final = (-1.0, 0.0)
ANONYMOUS: Final = 0  # the key of requests without one

APIS: Final = ("", "openai", "anthropic", "ollama", "tgi", "rerank", "score", "tokenize")
OPERATIONS: Final = tuple(Operation)
PHASES: Final = ("over", "receiving", "queued", "sent", "streaming")
OVER, RECEIVING, QUEUED, SENT, STREAMING = range(len(PHASES))
FLAGS: Final = (
    "stream",  # it was requested as a stream
    "fallback",  # another replica had failed before it
    "continued",  # another replica continued the stream
    "broken",  # the stream ended with an error
    "queued",  # it was in the queue
    "schema",  # the response has to match a format
    "client_gone",  # the client disconnected
    "captured",
    "limited",  # a limit of its key delayed or rejected it
    "attempt",  # not a request, but one attempt of it
    "preempted",  # its engine made room for another model meanwhile
)
STREAM, FALLBACK, CONTINUED, BROKEN, WAITED, SCHEMA, CLIENT_GONE, CAPTURED, LIMITED, ATTEMPT, PREEMPTED = (
    1 << bit for bit in range(len(FLAGS))
)

# The first number, start, queue_s, duration_s, status, flags, model, error code and the last number.
_OUTCOME: Final = struct.Struct("=Qdd8xd40xH2xH4xH108x11s37xQ")
_QUEUE_FULL: Final = frozenset({b"queue_full\0", b"outranked\0\0"})  # error codes, as far as _OUTCOME has them
_NUMBER: Final = struct.Struct("=Q")
_LAST: Final = RECORD.size - _NUMBER.size  # where the second sequence number is


class Trace(NamedTuple):
    """The place of a request in a trace."""

    trace_id: bytes = b""  # 16 bytes
    span_id: bytes = b""  # 8 bytes
    parent_id: bytes = b""  # 8 bytes: the client's span
    sampled: bool = False
    state: str = ""  # the client's tracestate, which engines get too; it is in no record


def attempt_id(span_id: bytes, attempt: int) -> bytes:
    """The span of an attempt, from 1 on, of the request with this span."""
    return (int.from_bytes(span_id) ^ attempt).to_bytes(8)


NO_TRACE: Final = Trace()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request, with the names of the plan."""

    row: int  # of the worker
    sequence: int
    start: float  # Unix seconds
    queue_s: float
    first_token_s: float | None
    duration_s: float
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    frames: int
    moved_at_token: int
    status: int
    attempts: int
    flags: tuple[str, ...]
    api: str
    operation: str
    phase: str
    model: str  # "": unknown
    key: str
    replica: str  # "": none
    previous_replica: str  # which had failed before; "": none
    rule: str  # that decided about it; "": none
    trace: Trace
    request_id: str
    error_code: str  # "": none
    attempt: tuple[float, float] | None = None  # the only one: seconds after the start, and how long; None: see above

    def only_attempt(self) -> "Record | None":
        """That of its only attempt, as routers write one for each attempt where there are several."""
        if self.attempt is None:
            return None
        after_s, duration_s = self.attempt
        return replace(
            self,
            start=self.start + after_s,
            duration_s=duration_s,
            queue_s=0.0,
            first_token_s=None if self.first_token_s is None else self.first_token_s - after_s,
            flags=("attempt", "stream") if "stream" in self.flags else ("attempt",),
            trace=self.trace._replace(span_id=attempt_id(self.trace.span_id, 1), parent_id=self.trace.span_id),
            error_code="ok",
            attempt=None,
        )

    def document(self) -> dict[str, Any]:
        """For JSON, as in /events and `berth top --json`."""
        return {
            "request": self.request_id,
            "start": round(self.start, 3),
            "api": self.api,
            "operation": self.operation,
            "model": self.model,
            "key": self.key,
            "phase": self.phase,
            "status": self.status,
            "attempts": self.attempts,
            "replica": self.replica,
            "previous_replica": self.previous_replica,
            "rule": self.rule,
            "moved_at_token": self.moved_at_token,
            "flags": list(self.flags),
            "error_code": self.error_code,
            "queue_s": round(self.queue_s, 4),
            "first_token_s": None if self.first_token_s is None else round(self.first_token_s, 4),
            "duration_s": round(self.duration_s, 4),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "frames": self.frames,
            "trace_id": self.trace.trace_id.hex(),
        }


@dataclass(slots=True, kw_only=True)
class Tally:
    """How the requests of a model ended."""

    requests: int = 0
    errors: int = 0  # of Berth and its engines, and streams that broke
    fallbacks: int = 0
    queue_full: int = 0  # rejected, because the queue was full
    waited_long: int = 0  # more than LONG_WAIT_S


def reserve(path: Path, parts: int) -> None:
    """Replaces the file by an empty one, with its space: a full disk must not keep a worker from starting later. It is
    not truncated, which would kill a process that still has it mapped.
    """
    path.unlink(missing_ok=True)
    os.close(_opened(path, parts))


def part_of(path: Path, row: int) -> mmap.mmap:
    """The file, with the part of this row's worker in it. OSError when it cannot be written."""
    descriptor = _opened(path, row + 1)
    try:
        return mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)


def newest(data: mmap.mmap, row: int) -> int:
    """The sequence number of the newest record in the ring; 0 if there is none."""
    start = row * PART_BYTES + _LAST
    places = range(start, start + RING_RECORDS * RECORD.size, RECORD.size)
    return max(int(_NUMBER.unpack_from(data, place)[0]) for place in places)


def newest_after(data: mmap.mmap, row: int, last: int) -> int:
    """The same, found from a record that was the newest before: the fewer have followed, the faster."""
    for number in range(last + 1, last + RING_RECORDS):
        place = row * PART_BYTES + number % RING_RECORDS * RECORD.size + _LAST
        (found,) = _NUMBER.unpack_from(data, place)
        if found != number:
            return number - 1 if found < number else newest(data, row)
    return newest(data, row)


def _opened(path: Path, parts: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size < parts * PART_BYTES:
            os.posix_fallocate(descriptor, 0, parts * PART_BYTES)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Names:
    """The indexes of records are those of the plan, and of the keys."""

    def __init__(self, plan: Plan, keys: Sequence[str]) -> None:
        """`keys`: `Keys.names()`; () for a reader that shows none."""
        self.models = tuple(route.name for route in plan.routes)
        self._replicas = tuple(replica.name for replica in plan.replicas)
        self._rules = ("", *(rule.name for rule in plan.rules))
        self._keys = keys

    def record(self, row: int, values: tuple[Any, ...]) -> Record:
        """`values`: the fields of RECORD."""
        sequence, start, queue_s, first_token_s, duration_s, prompt, completion, cached, frames, *codes = values
        moved_at, status, attempts, flags, api, operation, phase, sampled, *names = codes
        model, key, replica, previous, rule, trace_id, span_id, parent_id, request_id, error_code, *began, _ = names
        return Record(
            row=row,
            sequence=sequence,
            start=start,
            queue_s=queue_s,
            first_token_s=None if first_token_s < 0 else first_token_s,
            duration_s=duration_s,
            prompt_tokens=prompt,
            completion_tokens=completion,
            cached_tokens=cached,
            frames=frames,
            moved_at_token=moved_at,
            status=status,
            attempts=attempts,
            flags=tuple(flag for bit, flag in enumerate(FLAGS) if flags >> bit & 1),
            api=APIS[api],
            operation=OPERATIONS[operation].value,
            phase=PHASES[phase],
            model="" if model == NONE else self.models[model],
            key=self._keys[key] if key < len(self._keys) else f"key-{key}",
            replica="" if replica == NONE else self._replicas[replica],
            previous_replica="" if previous == NONE else self._replicas[previous],
            rule=self._rules[rule],
            trace=Trace(trace_id, span_id, parent_id, bool(sampled)) if any(trace_id) else NO_TRACE,
            request_id=mask_secrets(_text(request_id)),  # clients may send anything
            error_code=_text(error_code),
            attempt=None if began[0] < 0 else (began[0], began[1]),
        )


class Reader:
    """Of all parts. A file that is missing has no records; one that was replaced or has grown is opened again.
    `attempts`: the records of single attempts too, which only requests with a trace have.
    """

    def __init__(self, path: Path, names: Names, *, attempts: bool = False) -> None:
        self._attempts = attempts
        self._path = path
        self.names = names
        self._map: mmap.mmap | None = None
        self._is = (0, 0)  # inode and size of the file that is mapped
        self._seen: dict[int, int] = {}  # row -> the last record that `new` has returned

    def finished(self, most: int = RING_RECORDS, *, seen: bool = False) -> list[Record]:
        """The newest requests that are over, in the order of their ends. `seen`: none that `new` would return."""
        found: list[Record] = []
        for row, data in self._parts():
            last = self._seen.get(row, 0) if seen else newest(data, row)
            found += self._ring(data, row, 0, last, RING_RECORDS)
        return _last(self._wanted(found), most)

    def new(self, most: int = RING_RECORDS) -> tuple[list[Record], int]:
        """The requests that have ended since the last call, or since the first one, and how many more there were: those
        that were overwritten before they were read, and the oldest ones where there are more than `most`.
        """
        found: list[Record] = []
        ended = 0
        for row, data in self._parts():
            seen = self._seen.get(row)
            last = self._seen[row] = newest(data, row) if seen is None else newest_after(data, row, seen)
            if seen is not None:
                ended += last - seen
                found += self._ring(data, row, seen, last, most)
        found = _last(found, most)
        return self._wanted(found), ended - len(found)

    def recent(self, since: float) -> dict[str, Tally]:
        """By model, the requests that have ended since then, as far as the rings reach. Only a part of each record is
        read: a full ring takes a millisecond.
        """
        tallies = [Tally() for _ in self.names.models]
        for row, data in self._parts():
            ring = data[row * PART_BYTES : row * PART_BYTES + RING_RECORDS * RECORD.size]
            for first, start, queue_s, duration_s, status, flags, model, code, last in _OUTCOME.iter_unpack(ring):
                if start + duration_s < since or not last or first != last or model == NONE or flags & ATTEMPT:
                    continue
                tally = tallies[model]
                tally.requests += 1
                if status >= 429 or flags & (BROKEN | FALLBACK | WAITED):
                    tally.errors += status >= 500 or flags & BROKEN > 0
                    tally.fallbacks += flags & FALLBACK > 0
                    tally.queue_full += code in _QUEUE_FULL
                    tally.waited_long += queue_s > LONG_WAIT_S
        return {name: tally for name, tally in zip(self.names.models, tallies, strict=True) if tally.requests}

    def running(self, rows: Collection[int]) -> list[Record]:
        """The requests in progress for at least a second, the oldest first. `rows`: of the live workers."""
        found = []
        for row, data in self._parts():
            if row in rows:
                start = row * PART_BYTES + RING_RECORDS * RECORD.size
                places = range(start, start + TABLE_RECORDS * RECORD.size, RECORD.size)
                found += [record for place in places if (record := self._record(data, row, place)) is not None]
        return sorted(found, key=lambda record: record.start)

    def oldest(self, rows: Collection[int]) -> float | None:
        """When the oldest of the requests in progress has begun. Each table begins with its oldest."""
        places = (
            (row, data, row * PART_BYTES + RING_RECORDS * RECORD.size) for row, data in self._parts() if row in rows
        )
        return min((one.start for row, data, place in places if (one := self._record(data, row, place))), default=None)

    def _wanted(self, records: list[Record]) -> list[Record]:
        return records if self._attempts else [record for record in records if "attempt" not in record.flags]

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
        self._map, self._is = None, (0, 0)

    def _parts(self) -> Iterator[tuple[int, mmap.mmap]]:
        try:
            stat = self._path.stat()
            if self._is != (stat.st_ino, stat.st_size):
                if self._is[0] != stat.st_ino:
                    self._seen.clear()
                self.close()
                with self._path.open("rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._is = stat.st_ino, stat.st_size
        except (OSError, ValueError):  # no file, or an empty one
            self.close()
        if (data := self._map) is not None:
            for row in range(len(data) // PART_BYTES):
                yield row, data

    def _ring(self, data: mmap.mmap, row: int, after: int, last: int, most: int) -> Iterator[Record]:
        """The newest `most` of the records after one up to another one."""
        for number in range(max(after, last - min(most, RING_RECORDS)) + 1, last + 1):
            record = self._record(data, row, row * PART_BYTES + number % RING_RECORDS * RECORD.size)
            if record is not None and record.sequence == number:
                yield record

    def _record(self, data: mmap.mmap, row: int, place: int) -> Record | None:
        """None if there is none, or if it is being written."""
        (last,) = _NUMBER.unpack_from(data, place + _LAST)
        if not last:
            return None
        values = RECORD.unpack(data[place : place + RECORD.size])
        if values[0] != last or _NUMBER.unpack_from(data, place)[0] != last:
            return None
        return self.names.record(row, values)


def _last(records: list[Record], most: int) -> list[Record]:
    """In the order of their ends."""
    records.sort(key=lambda record: record.start + record.duration_s)
    return records[max(0, len(records) - most) :]


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode("utf-8", "replace")

"""Where `berth top` has its numbers from: the run directory of this machine, or /events of a server."""

import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import httpx

from berth.errors import BerthError, ControlError
from berth.ipc.journal import Names, Reader
from berth.ipc.key_poll import KeyPoll
from berth.ipc.traffic import workers
from berth.notices import RECENT_S, notices
from berth.plan import Keys, read_contract, read_keys, read_plan
from berth.records import usage
from berth.router.events.host_usage import HostUsage
from berth.router.events.log_tail import LogTail
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.quantiles import Latest, Window
from berth.router.telemetry.rates import Sample, Sampler, traffic
from berth.router.telemetry.shared_counters import read_totals
from berth.router.telemetry.status import Traffic, status
from berth.state import State

PERIOD_S: Final = 1.0
KEPT_REQUESTS: Final = 200
KEPT_LINES: Final = 1000
_WINDOW_PERIODS: Final = 10
_CONNECT_S: Final = 5.0
_SILENT_S: Final = 10.0
_RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """As the events have it (docs/events.md)."""

    at: float = 0.0  # Unix seconds; 0: nothing is known yet
    status: Mapping[str, Any] = field(default_factory=dict)
    traffic: Mapping[str, Any] = field(default_factory=dict)
    requests: tuple[Mapping[str, Any], ...] = ()  # that are over, the newest last
    running: tuple[Mapping[str, Any], ...] = ()
    lines: tuple[str, ...] = ()  # of the log that is followed
    problem: str = ""  # why there is nothing newer


class Source(Protocol):
    def snapshot(self) -> Snapshot:
        """The newest numbers. Called once a period. BerthError when there will never be any."""
        ...

    def follow(self, replica: str) -> None:
        """From now on snapshots have the log of this replica; "": none."""
        ...

    def close(self) -> None: ...


class LocalSource:
    """The files of a run directory: no request, no key. ControlError where Berth was never started with it."""

    def __init__(self, run_dir: str) -> None:
        self._plan = plan = read_plan(run_dir)
        self._layout = layout(plan)
        self._sampler = Sampler(plan, self._layout)
        self._samples: deque[Sample] = deque(maxlen=_WINDOW_PERIODS + 1)
        self._window = Window(plan, self._layout)  # from the start of this program on
        self._usage = HostUsage(plan.paths.heartbeats)
        self._latest: Latest | None = None
        self._tail: LogTail | None = None
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        keys, self._knows_keys = Keys(), False
        with suppress(ControlError):  # of another user: then nothing of theirs is in the logs that can be read
            keys, self._knows_keys = read_keys(run_dir), True
        self._keys = KeyPoll(plan, keys)
        self._reader = Reader(plan.paths.journal, Names(plan, keys.names()))

    def snapshot(self) -> Snapshot:
        plan, now, problem = self._plan, time.time(), ""
        state = None
        try:
            state = read_contract(plan.paths.state, State.from_json)
        except ControlError as error:
            problem = str(error)
        if self._knows_keys and self._keys.changed():
            self._reader.names = Names(plan, self._keys.current.names())
        live = workers(plan.paths.heartbeats)
        with suppress(OSError, ValueError):
            sums = read_totals(plan.paths.scoreboard, self._layout, live)
            self._samples.append(self._sampler.sample(sums, at := time.monotonic()))
            self._latest = self._window.latest(sums[self._window.span])
            if at >= self._window.due:
                self._window.keep(sums[self._window.span], at)
        if not self._samples:
            return Snapshot(problem=problem or "the router has not started yet")
        last = self._samples[-1]
        found = traffic(self._samples[0], last, self._sampler.bounds, state)
        known = Traffic(loads=last.on_replica, queues=last.queued, latest=self._latest)
        keys, charged = usage.spent(plan)
        recent = self._reader.recent(now - RECENT_S)
        attention = notices(plan, state, recent, now=now, keys=keys, charged=charged)
        statuses = {one.name: one for one in state.replicas} if state else {}
        if self._tail is not None:
            self._lines += self._tail.read()[0]
        return Snapshot(
            at=now,
            status=status(plan, state, statuses, now=now, traffic=known, found=attention) if state else {},
            traffic={"t": round(now, 3), **found, "host": self._usage.document()},
            requests=tuple(record.document() for record in self._reader.finished(KEPT_REQUESTS)),
            running=tuple(record.document() for record in self._reader.running(live)),
            lines=tuple(self._lines),
            problem=problem,
        )

    def follow(self, replica: str) -> None:
        if self._tail is not None:
            self._tail.close()
        self._tail = LogTail(self._plan.paths.replica_log(replica), self._keys.current) if replica else None
        self._lines.clear()

    def close(self) -> None:
        self.follow("")
        self._reader.close()


class RemoteSource:
    """/events of a server, read by a thread that connects again by itself."""

    def __init__(self, url: str, keys: Sequence[str]) -> None:
        """`keys`: are tried in turn."""
        self._url, self._keys = url.rstrip("/"), list(keys)
        self._lock = threading.Lock()
        self._snapshot = Snapshot(problem=f"connecting to {self._url}")
        self._fatal: BerthError | None = None
        self._replica = ""
        self._response: httpx.Response | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="events", daemon=True).start()

    def snapshot(self) -> Snapshot:
        with self._lock:
            if self._fatal is not None:
                raise self._fatal
            return self._snapshot

    def follow(self, replica: str) -> None:
        """The log is another stream: the connection is made again."""
        with self._lock:
            self._replica = replica
            self._snapshot = replace(self._snapshot, lines=())
        self._stop_reading()

    def close(self) -> None:
        self._closed.set()
        self._stop_reading()

    def _stop_reading(self) -> None:
        if (response := self._response) is not None:
            stream = response.extensions["network_stream"]
            with suppress(OSError, AttributeError):
                stream.get_extra_info("socket").shutdown(2)

    def _run(self) -> None:
        while not self._closed.is_set():
            before = self._replica
            try:
                self._read(before)
                problem = "the connection was closed"
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
            except BerthError as error:
                with self._lock:
                    self._fatal = error
                return
            if before == self._replica:
                with self._lock:
                    self._snapshot = replace(self._snapshot, problem=problem)
                self._closed.wait(_RETRY_S)

    def _read(self, replica: str) -> None:
        headers = {"authorization": f"Bearer {self._keys[0]}"} if self._keys else {}
        query = {"requests": "1", **({"logs": replica} if replica else {})}
        timeout = httpx.Timeout(_SILENT_S, connect=_CONNECT_S)
        with httpx.stream("GET", f"{self._url}/events", params=query, headers=headers, timeout=timeout) as response:
            if response.status_code == 401 and len(self._keys) > 1:
                del self._keys[0]
                return
            if response.status_code in (401, 403, 404):
                response.read()
                raise ControlError(
                    f"{self._url}/events answered {response.status_code}: {response.text[:300]}. "
                    "The key is read from BERTH_ADMIN_KEY or OPENAI_API_KEY"
                )
            response.raise_for_status()
            self._response = response
            for kind, document in events(response.iter_lines()):
                with self._lock:
                    self._snapshot = with_event(self._snapshot, kind, document)


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """The kinds and documents of server-sent events."""
    kind = ""
    for line in lines:
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


def with_event(snapshot: Snapshot, kind: str, document: Any) -> Snapshot:
    match kind:
        case "state":
            return replace(snapshot, status=document, at=time.time(), problem="")
        case "traffic":
            return replace(snapshot, traffic=document, at=time.time(), problem="")
        case "requests":
            over = (*snapshot.requests, *document["requests"])
            known = {(one["request"], one["start"]): one for one in over}  # those of a connection before come again
            newest = tuple(known.values())[-KEPT_REQUESTS:]
            return replace(snapshot, requests=newest, running=tuple(document["running"]))
        case "log":
            return replace(snapshot, lines=(*snapshot.lines, *document["lines"])[-KEPT_LINES:])
    return snapshot

"""Many streams at once through Berth: 10,000 that say nothing for a while, and 2,000 that go on beside them.

Each stream takes two files in the router, so that the limit on open files (ulimit -n) may allow only fewer idle ones.
"""

import resource
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass

from etc.tools.rivals import accounting, routers
from etc.tools.rivals.compare import Say
from etc.tools.rivals.failure import BenchError
from etc.tools.rivals.figures import Spread, p50, p99
from etc.tools.rivals.frames import Pace
from etc.tools.rivals.load import Load
from etc.tools.rivals.measure import generator
from etc.tools.rivals.probe import Probe
from etc.tools.rivals.routers import Router
from etc.tools.rivals.table import number, rounded, table
from etc.tools.rivals.tally import Result

IDLE, ACTIVE, WORKERS = 10_000, 2_000, 2
SILENCE_MS = 50_000  # of an idle stream between its two tokens: less than BERTH_TOKEN_TIMEOUT
ACTIVE_LOAD = Load(
    connections=ACTIVE, seconds=90, pace=Pace(tokens=100, first_ms=200, next_ms=200), stagger_s=5, warm=False
)
_OPENING_S = 10.0
_PATIENCE_S = 30.0
_UNEVEN = 1.25  # the kernel spreads connections by chance: a worker may get more than its part
_OTHER_FILES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """What became of it."""

    idle_asked: int
    limit: int  # on open files
    idle: Result
    active: Result
    health: Spread | None
    health_failures: int
    pss_bytes: tuple[int, ...]  # of the router's processes, while all streams were open
    open_files: int  # in all of them, then


def idle_allowed(limit: int) -> int:
    """How many idle streams the limit on open files leaves room for, in a worker, the upstream and the generator."""
    worker = int((limit - _OTHER_FILES) * WORKERS / (2 * _UNEVEN)) - ACTIVE
    return max(0, min(IDLE, worker, limit - ACTIVE - _OTHER_FILES))


def idle_load(idle: int) -> Load:
    pace = Pace(tokens=2, first_ms=20, next_ms=SILENCE_MS)
    return Load(connections=idle, seconds=3 * SILENCE_MS / 1000, pace=pace, stagger_s=_OPENING_S, warm=False)


def crowd(say: Say) -> Crowd:
    """BenchError where the limit allows no idle stream at all."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # inherited by all that is started here
    idle = idle_allowed(limit)
    if not idle:
        raise BenchError(f"the limit on open files is {limit}: raise it (ulimit -Hn) to see {IDLE:,} idle streams")
    with ExitStack() as stack:
        url, _ = stack.enter_context(routers.upstream())
        router = stack.enter_context(routers.berth_with(url, WORKERS))
        say(f"opening {idle:,} idle streams; the limit on open files is {limit:,} ...")
        silent = stack.enter_context(generator(router, idle_load(idle)))
        _go(silent)
        _await_streams(router, idle)
        return _beside(router, silent, idle, limit, say)


def _beside(router: Router, silent: "subprocess.Popen[str]", idle: int, limit: int, say: Say) -> Crowd:
    """The active streams, while the idle ones are open."""
    say(f"and {ACTIVE:,} active ones beside them ...")
    with generator(router, ACTIVE_LOAD) as active, Probe(router.url) as probe:
        _go(active)
        _await_streams(router, idle + ACTIVE)
        memory, files = tuple(accounting.tree_pss_bytes(router.roots)), _open_files(router)
        lively = Result.from_json(active.communicate()[0])
    return Crowd(
        idle_asked=idle,
        limit=limit,
        idle=Result.from_json(silent.communicate()[0]),
        active=lively,
        health=Spread.of(probe.seconds),
        health_failures=probe.failures,
        pss_bytes=memory,
        open_files=files,
    )


def _go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def _await_streams(router: Router, streams: int) -> None:
    """As long as it takes, within reason: what has failed meanwhile is in the results."""
    deadline = time.monotonic() + _PATIENCE_S
    while _open_files(router) < 2 * streams and time.monotonic() < deadline:
        time.sleep(0.2)


def _open_files(router: Router) -> int:
    return sum(map(accounting.open_files, accounting.tree(router.roots, accounting.stats())))


def text(found: Crowd) -> str:
    rows = [_row(f"{name} streams", result) for name, result in (("idle", found.idle), ("active", found.active))]
    header = ["", "whole", "failed", "cut", "first ms p50", "p99", "gap ms p50", "p99"]
    health = [rounded(p50(found.health)), rounded(p99(found.health))]
    memory = ", ".join(rounded(one / 1e6) for one in found.pss_bytes)
    lines = [
        table(header, rows),
        f"the router's processes: {memory} MB PSS, {found.open_files:,} open files",
        f"/health: p50 {health[0]} ms, p99 {health[1]} ms, {found.health_failures} failed",
    ]
    for name, result in (("idle", found.idle), ("active", found.active)):
        lines += [f"{name}: {count:,} times: {problem}" for problem, count in result.failures.items()]
    if found.idle_asked < IDLE:
        lines.append(f"only {found.idle_asked:,} idle streams: the limit on open files is {found.limit:,} (ulimit -Hn)")
    return "\n".join(lines)


def _row(name: str, result: Result) -> list[str]:
    times = [p50(result.first), p99(result.first), p50(result.gap), p99(result.gap)]
    counts = [result.requests, sum(result.failures.values()), result.unfinished]
    return [name, *map(number, counts), *map(rounded, times)]

"""A million requests through one worker of Berth: does its memory stay where it is?"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from etc.tools.rivals import accounting, loads, routers
from etc.tools.rivals.columns import failures
from etc.tools.rivals.compare import Say
from etc.tools.rivals.measure import Measurement, measure
from etc.tools.rivals.table import number, table

_SLICE_S = 10.0
_WARM = 0.1  # of the requests: until then caches and pools fill
STREAMS_EVERY = 5  # this slice of so many is one of streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    requests: int  # so far
    failed: float
    pss_bytes: int  # of the worker
    open_files: int


def endure(requests: int, say: Say) -> list[Reading]:
    """One reading at the start, and one after each slice of the load."""
    with ExitStack() as stack:
        url, upstream = stack.enter_context(routers.upstream())
        router = stack.enter_context(routers.berth_with(url))
        worker = accounting.largest(router.roots)
        readings = [_read(worker, 0, 0)]
        while readings[-1].requests < requests:
            streams = len(readings) % STREAMS_EVERY == 0
            load = loads.streams(_SLICE_S) if streams else loads.requests(_SLICE_S)
            one = measure(router, load, upstream)
            readings.append(_after(readings[-1], one, worker))
            say(f"{readings[-1].requests:,} of {requests:,} requests ...")
    return readings


def _after(before: Reading, one: Measurement, worker: int) -> Reading:
    return _read(worker, before.requests + one.result.requests, before.failed + failures(one))


def _read(worker: int, requests: int, failed: float) -> Reading:
    return Reading(
        requests=requests,
        failed=failed,
        pss_bytes=accounting.pss_bytes(worker),
        open_files=accounting.open_files(worker),
    )


def text(readings: Sequence[Reading]) -> str:
    rows = [
        [number(one.requests), number(one.failed), number(one.pss_bytes / 1e6, 2), number(one.open_files)]
        for one in readings
    ]
    return f"{table(['requests', 'failed', 'PSS MB', 'open files'], rows)}\n\n{growth(readings)}"


def growth(readings: Sequence[Reading]) -> str:
    """From the first reading after the warm-up to the last."""
    last = readings[-1]
    warm = next(one for one in readings if one.requests >= _WARM * last.requests)
    more, requests = last.pss_bytes - warm.pss_bytes, last.requests - warm.requests
    if not requests:
        return "too few requests to tell whether it grows"
    return f"after {warm.requests:,} requests: {more / 1e6:+.2f} MB, that is {more / requests:+.2f} bytes per request"

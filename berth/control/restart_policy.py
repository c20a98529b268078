"""The brake on crash loops, pure: how long to wait after a failure, and when a replica has failed for good.

A failure counts while it is younger than the window, and as long as the replica has not been ready since: otherwise an
engine that needs longer to fail than the window is long would be started for ever.

One start or stop at a time per GPU, pure. Two engines that start together on one GPU mis-measure each other.

All replicas without a GPU share one device, the CPU: imports of two engines at once only make both slower.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from berth.plan import Replica, Restarts

_DOUBLINGS = 32  # past any back-off that makes sense, and far from overflowing a float


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The failures of one replica. Times on time.monotonic()'s clock."""

    failures: tuple[float, ...] = ()  # those in the window, oldest first
    in_a_row: int = 0  # since the replica was last ready

    @property
    def count(self) -> int:
        return max(len(self.failures), self.in_a_row)


def after_failure(history: History, now: float, restarts: Restarts) -> History:
    recent = _recent(history, now, restarts)
    return History(failures=(*recent, now), in_a_row=history.in_a_row + 1)


def after_ready(history: History) -> History:
    return replace(history, in_a_row=0)


def delay_s(history: History, restarts: Restarts, limit: int) -> float | None:
    """Seconds until the next start after the last failure; None: it has failed for good."""
    if history.count >= min(limit, restarts.failures):
        return None
    doubled = restarts.backoff_first_s * 2.0 ** min(max(history.count - 1, 0), _DOUBLINGS)
    return min(doubled, restarts.backoff_longest_s)


def _recent(history: History, now: float, restarts: Restarts) -> tuple[float, ...]:
    return tuple(at for at in history.failures if now - at < restarts.window_s)


CPU = -1


def devices(replica: Replica) -> frozenset[int]:
    return frozenset(replica.gpus) or frozenset({CPU})


def grant(waiting: Iterable[Replica], holding: Iterable[Replica]) -> tuple[str, ...]:
    """The names of those waiting, first come first served, that may start now, beside those that hold a lease.

    One that must go on waiting keeps its devices reserved, so that a replica on many GPUs is not overtaken for ever.
    """
    taken = set().union(*(devices(replica) for replica in holding))
    granted = []
    for replica in waiting:
        if taken.isdisjoint(devices(replica)):
            granted.append(replica.name)
        taken |= devices(replica)
    return tuple(granted)

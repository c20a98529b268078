"""When a replica may start, pure: back-off after failures, and leases on devices.

A crash-looping replica is restarted after growing delays until it has failed permanently. A failure counts while it is
younger than the window, and also as long as the replica has not been ready since: otherwise an engine that takes longer
than the window to fail would be restarted forever.

One that becomes ready and fails again and again, but too slowly for the window, flaps: the failures of a longer time
count for the delay, up to FLAPPING_LONGEST_S. It has not failed permanently, since it serves, and where no other
engine serves meanwhile, a pause of minutes would be the longer outage.

Per device, one engine starts or stops at a time: two that start together on one GPU mis-measure each other's memory.
Replicas without a GPU share one device, the CPU, because two concurrent starts only slow each other down.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from berth.plan import Replica, Restarts

CPU = -1

FLAPS = 3
FLAPPING_S = 3600.0
FLAPPING_LONGEST_S = 15.0
_DOUBLINGS = 32  # beyond any sensible back-off, and far from overflowing a float


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The failures of one replica. Times on time.monotonic()'s clock."""

    failures: tuple[float, ...] = ()  # those in the window, oldest first
    in_a_row: int = 0  # since the replica was last ready
    flaps: tuple[float, ...] = ()  # those within FLAPPING_S that came after it had been ready

    @property
    def count(self) -> int:
        return max(len(self.failures), self.in_a_row)


def after_failure(history: History, now: float, restarts: Restarts, *, served: bool = False) -> History:
    """`served`: it has been ready since its start."""
    recent = (at for at in history.failures if now - at < restarts.window_s)
    flaps = (*(at for at in history.flaps if now - at < FLAPPING_S), *((now,) if served else ()))
    return History(failures=(*recent, now), in_a_row=history.in_a_row + 1, flaps=flaps)


def flapping(history: History, now: float) -> int:
    """How often it failed after it had been ready, if that is too often."""
    count = sum(now - at < FLAPPING_S for at in history.flaps)
    return count if count >= FLAPS else 0


def after_ready(history: History) -> History:
    return replace(history, in_a_row=0)


def backoff_s(history: History, restarts: Restarts, limit: int) -> float | None:
    """Seconds between the last failure and the next start. None: the replica has failed permanently."""
    if history.count >= min(limit, restarts.failures):
        return None
    flaps = len(history.flaps) if len(history.flaps) >= FLAPS else 0
    failed, flapped = (restarts.backoff_first_s * 2.0 ** min(max(n - 1, 0), _DOUBLINGS) for n in (history.count, flaps))
    return min(max(failed, min(flapped, FLAPPING_LONGEST_S)), restarts.backoff_longest_s)


def devices(replica: Replica) -> frozenset[int]:
    return frozenset(replica.gpus) or frozenset({CPU})


def grant_leases(waiting: Iterable[Replica], holding: Iterable[Replica]) -> tuple[str, ...]:
    """The names of the waiting replicas that may start now, first come, first served.

    One that keeps waiting reserves its devices, so that a replica on many GPUs is not overtaken forever.
    """
    taken = set().union(*(devices(replica) for replica in holding))
    granted = []
    for replica in waiting:
        if taken.isdisjoint(devices(replica)):
            granted.append(replica.name)
        taken |= devices(replica)
    return tuple(granted)

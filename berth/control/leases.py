"""One start or stop at a time per GPU, pure. Two engines that start together on one GPU mis-measure each other.

All replicas without a GPU share one device, the CPU: imports of two engines at once only make both slower.
"""

from collections.abc import Iterable

from berth.plan import Replica

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

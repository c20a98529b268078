"""The queued requests of one model in this worker, in the order in which they get a slot; pure.

Three rules make the order, so that no one starves, whatever others ask for:

1. the class counts first, and a request rises by one class for each RISES of the queue timeout that it has waited: so a
   request of low priority is in the first class after two of them, long before it would be rejected;
2. within a class the owners (API keys) take turns (berth.router.balancing.fairness): the one that has had the least of
   this model, for its share, is the next;
3. of one owner's requests in a class, the one that has waited longest for its priority is the next.

Places in a full queue are given up in the same way: by the last request of the lowest class to one of a higher class;
else by the owner of most of the requests to another owner.
"""

import asyncio
import math
import time
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from typing import Final

from berth.errors import OverloadedError
from berth.router.balancing.fairness import Turns
from berth.router.balancing.upstreams import Upstream
from berth.router.exchange import outcomes
from berth.router.exchange.request import RequestContext

RISES: Final = 1 / 4
_SHORTEST_STEP_S = 0.001
_RETRY_SOONEST_S = 1.0
_WEIGHT_OF_PAST = 0.9  # in the mean time from one grant to the next


class Ticket:
    """A queued request. `granted` is the replica that it gets; None: no other replica may get it."""

    __slots__ = ("ctx", "first_at", "granted", "owner", "price", "since", "tried")

    def __init__(
        self, ctx: RequestContext, tried: Sequence[Upstream], granted: "asyncio.Future[Upstream | None]", step_s: float
    ) -> None:
        self.ctx = ctx
        self.tried = tried  # the replicas that have failed it already
        self.granted = granted
        self.owner = ctx.key.slot
        self.price = ctx.grant.price if ctx.grant else 0.0
        self.first_at = ctx.since + ctx.priority * step_s  # when it is in the first class
        self.since = time.monotonic()


class Queue:
    def __init__(self, model: str, timeout_s: float, turns: Turns) -> None:
        self.model = model
        self.turns = turns
        self.length = 0
        self.step_s = max(timeout_s * RISES, _SHORTEST_STEP_S)
        self._lines: dict[int, list[Ticket]] = {}  # of each owner, by `first_at`; none is empty
        self._gap_s = 0.0  # mean time from one grant to the next, while requests are queued
        self._last = 0.0

    def join(self, ticket: Ticket) -> None:
        if not self.length:
            self._last = ticket.since
        if ticket.owner not in self._lines:
            self._lines[ticket.owner] = []
            if ticket.owner:
                self.turns.join(ticket.owner)
        insort(self._lines[ticket.owner], ticket, key=_first_at)
        self.length += 1

    def leave(self, ticket: Ticket) -> None:
        line = self._lines.get(ticket.owner, [])
        if ticket in line:
            line.remove(ticket)
            self.length -= 1
            if not line:
                del self._lines[ticket.owner]

    def served(self, ticket: Ticket) -> None:
        """It leaves with a slot."""
        self.leave(ticket)
        self.pay(ticket.ctx)
        now = time.monotonic()
        self._gap_s = _WEIGHT_OF_PAST * self._gap_s + (1 - _WEIGHT_OF_PAST) * (now - self._last)
        self._last = now

    def pay(self, ctx: RequestContext) -> None:
        """Of a request that gets a slot. One that is sent to another engine later does not pay again."""
        grant = ctx.grant
        if grant is not None and not grant.queued:
            grant.queued = True
            self.turns.grant(ctx.key.slot, grant.price)

    def in_order(self, now: float) -> Iterator[Ticket]:
        """The next one first. The one that came last may leave meanwhile."""
        lines, places = dict(self._lines), dict.fromkeys(self._lines, 0)
        had = {owner: self.turns.of(owner) for owner in lines} if len(lines) > 1 else dict.fromkeys(lines, 0.0)

        def rank(owner: int) -> tuple[int, float, float]:
            ticket = lines[owner][places[owner]]
            return self._class(ticket, now), had[owner], ticket.first_at

        while places:
            owner = min(places, key=rank)
            line, place = lines[owner], places[owner]
            ticket = line[place]
            yield ticket
            had[owner] += ticket.price
            places[owner] += place < len(line) and line[place] is ticket
            if places[owner] == len(line):
                del places[owner]

    def crowded_out_by(self, owner: int) -> Ticket | None:
        """The request that leaves a full queue for one of this owner: the last one of the owner with the most, unless
        that owner would then have fewer.
        """
        longest = max(self._lines.values(), key=len, default=[])
        return longest[-1] if len(longest) > len(self._lines.get(owner, ())) + 1 else None

    def outranked_by(self, priority: int) -> Ticket | None:
        """The request that leaves a full queue for one of this priority: the last one of the lowest class, if that is a
        lower one.
        """
        last = max((line[-1] for line in self._lines.values()), key=_first_at, default=None)
        return last if last is not None and self._class(last, time.monotonic()) > priority else None

    def position(self, ticket: Ticket) -> int:
        """1: the next one, as far as the queue and the turns of now show it."""
        now, own = time.monotonic(), self._lines[ticket.owner]
        level = self._class(ticket, now)
        ahead = own.index(ticket)
        mine = self.turns.of(ticket.owner) + sum(one.price for one in own[:ahead]), ticket.first_at
        for owner, line in self._lines.items():
            if line is not own:
                above = self._above(line, level, now)
                ahead += above
                had = self.turns.of(owner) + sum(one.price for one in line[:above])
                for one in line[above : self._above(line, level + 1, now)]:
                    if (had, one.first_at) > mine:
                        break
                    had += one.price
                    ahead += 1
        return ahead + 1

    def full_error(self, length: int) -> OverloadedError:
        return OverloadedError(
            f"Every engine of model {self.model!r} is at capacity, and {length} requests are queued already "
            "(BERTH_QUEUE_SIZE).",
            code="queue_full",
            retry_after_s=self._retry_after_s(length),
            details={"model": self.model, "queued": length},
        )

    def outranked_error(self, length: int) -> OverloadedError:
        return outcomes.outranked(self.model, self._retry_after_s(length))

    def timeout_error(self, ticket: Ticket, limit_s: float) -> OverloadedError:
        position = self.position(ticket)
        return OverloadedError(
            f"Every engine of model {self.model!r} was at capacity for {limit_s:g} s (BERTH_QUEUE_TIMEOUT). "
            f"The request was at position {position} of the queue.",
            code="queue_timeout",
            retry_after_s=self._retry_after_s(position),
            details={"model": self.model, "position": position},
        )

    def _class(self, ticket: Ticket, now: float) -> int:
        """0: the first one."""
        return max(0, math.ceil((ticket.first_at - now) / self.step_s))

    def _above(self, line: list[Ticket], level: int, now: float) -> int:
        """The number of its requests in classes before this one."""
        return bisect_right(line, now + (level - 1) * self.step_s, key=_first_at) if level else 0

    def _retry_after_s(self, ahead: int) -> float:
        return max(_RETRY_SOONEST_S, min(ahead * self._gap_s, 60.0))


def _first_at(ticket: Ticket) -> float:
    return ticket.first_at

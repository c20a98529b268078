"""One engine on several boxes: when its ranks may start, and when all of them have to end. Pure.

The head gives every start a generation: a number that no start had before. There are five rules:

1. A rank of another box runs only the generation that the head orders, and each only once.
2. The head orders one when its own engine is due, and all boxes are heard and alike.
3. The engine of the head starts last, when all other ranks run that generation.
4. A rank that is gone, runs another generation or is silent for five beats ends the whole group: engines themselves
   notice it after minutes, or never.
5. A box that does not hear the head for as long ends its ranks. So after a partition no old rank is left.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from berth.control.decisions.records import LIVE, Record
from berth.errors import shortened
from berth.ipc.box_link import Order, RankReport
from berth.plan import Box, Node, Nodes
from berth.plan.ranks import differences
from berth.state import RankState, ReplicaStatus

LOST_BEATS = 5

_S = ReplicaStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The last that came from another box."""

    at: float  # on the monotonic clock; of a box that was never heard, when control began to listen
    box: Box | None = None
    ranks: Mapping[str, RankReport] = field(default_factory=dict)
    orders: Mapping[str, Order] = field(default_factory=dict)  # of the head only
    error: str = ""  # of what came since


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """The other boxes at one moment."""

    nodes: Nodes
    own: Box
    heard: Mapping[int, Heard]  # by rank
    lost_s: float  # after so long without a message, a box counts as gone
    now: float

    def silent(self, rank: int) -> str:
        """Why a box counts as gone; "" where it does not."""
        one = self.heard[rank]
        if one.box is not None and self.now - one.at <= self.lost_s:
            return ""
        since = f"no message for {self.now - one.at:.0f} s" if one.box else "no message yet"
        return f"box {rank} ({self.address(rank)}): {since}{f', {one.error}' if one.error else ''}"

    def address(self, rank: int) -> Node:
        return self.nodes.boxes[rank]

    def report(self, rank: int, replica: str) -> RankReport:
        return self.heard[rank].ranks.get(replica, RankReport())

    def order(self, replica: str) -> Order:
        """Of the head, for this box."""
        return self.heard[0].orders.get(replica, Order())


def is_running(record: Record) -> bool:
    return record.status in LIVE and record.status is not _S.STOPPING


def report_of(record: Record) -> RankReport:
    return RankReport(
        generation=record.generation, runs=is_running(record), status=str(record.status), reason=record.reason
    )


def absence(others: Others, replica: str) -> str:
    """Why the head may not order a start: a box that is not there, or that is different. "" where it may."""
    for rank in range(1, len(others.nodes.boxes)):
        if reason := others.silent(rank):
            return f"waits for {reason}"
        box = others.heard[rank].box
        theirs = box.replicas.get(replica) if box else None
        mine, other = f"box 0 ({others.nodes.head})", f"box {rank} ({others.address(rank)})"
        if theirs is None:
            return f"{other} has no {replica}: set the same BERTH_MODELS on every box"
        found = "; ".join(differences(others.own.replicas[replica], theirs, mine, other))
        if found:
            return f"the boxes differ: {found}"
        report = others.report(rank, replica)
        if report.status == _S.FAILED:
            return f"rank {rank} on {others.address(rank)} has failed: {report.reason}"
    return ""


def incomplete(others: Others, replica: str, generation: int) -> str:
    """Which rank does not run an ordered generation yet; "" where all do."""
    for rank in range(1, len(others.nodes.boxes)):
        report = others.report(rank, replica)
        if not report.runs or report.generation != generation:
            state = f"{report.status}{f': {report.reason}' if report.reason else ''}"
            return f"waits for rank {rank} on {others.address(rank)}, {state or 'which has not answered'}"
    return ""


def died_early(others: Others, replica: str, generation: int) -> bool:
    """A rank has run an ordered generation and is gone: it will not run it again."""
    reports = (others.report(rank, replica) for rank in range(1, len(others.nodes.boxes)))
    return any(one.generation == generation and not one.runs for one in reports)


def broken(record: Record, others: Others) -> str:
    """Of the head's engine: why the group cannot continue; "" where it can."""
    for rank in range(1, len(others.nodes.boxes)):
        if reason := others.silent(rank):
            return reason
        report = others.report(rank, record.replica.name)
        where = f"rank {rank} on {others.address(rank)}"
        if not report.runs:
            return f"{where} is gone ({report.status}{f': {report.reason}' if report.reason else ''})"
        if report.generation != record.generation:
            return f"{where} runs another generation"
    return ""


def stale(record: Record, others: Others) -> str:
    """Of a rank that follows: why it has to end; "" where it does not."""
    if reason := others.silent(0):
        return f"the head is lost: {reason}"
    wanted = others.order(record.replica.name).generation
    if wanted == record.generation:
        return ""
    return "the head has begun another generation" if wanted else "the head's engine has ended"


def unordered(record: Record, others: Others) -> str:
    """Why a rank that follows does not start; "" where it is to."""
    if reason := others.silent(0):
        return f"waits for the head, {reason}"
    wanted = others.order(record.replica.name).generation
    return "" if wanted > record.generation else f"waits for the head, box 0 ({others.nodes.head}), to order its start"


def views(record: Record, others: Others) -> Iterator[RankState]:
    """All ranks of a replica, as this box knows them. One that follows knows the head and itself."""
    name, own = record.replica.name, others.nodes.rank
    for rank, node in enumerate(others.nodes.boxes):
        if rank == own:
            report = report_of(record)
        elif own and rank:
            continue
        else:
            report = others.report(rank, name)
        silence = "" if rank == own else others.silent(rank)
        yield RankState(
            rank=rank,
            box=str(node),
            status="silent" if silence else report.status,
            generation=report.generation,
            reason=shortened(silence or report.reason),
        )

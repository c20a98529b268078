"""When the ranks of an engine on several boxes start, and when they end: the decisions alone."""

from dataclasses import replace

import pytest

from berth.control.boxes import group
from berth.control.boxes.group import LOST_BEATS, Heard, Others
from berth.control.decisions.lifecycle import apply, decide
from berth.control.decisions.records import Goal, GroupEnd, Observation, Record, Timing
from berth.control.supervisord_client import Process, ProcessState
from berth.ipc.box_link import LIMIT_S, Order, RankReport
from berth.plan import Box, Launch, Node, Nodes, Ranks, Restarts
from berth.state import RankState, ReplicaStatus
from tests.fakes.plans import make_replica

S = ReplicaStatus
NOW = 1000.0
SAME_GPUS = "use as many GPUs of the same kind on every box"
PROMISED_S = 6.0  # until the loss of a rank or a box is seen
FACTS = {"m-sim": {"engine": "sim", "GPUs": "4 x H100"}}
RUNNING = Process(state=ProcessState.RUNNING, pid=7)


def nodes(rank: int = 0) -> Nodes:
    boxes = tuple(Node(address=f"10.0.0.{number}") for number in (1, 2, 3))
    return Nodes(boxes=boxes, rank=rank, interface="eth0")


def record(rank: int = 0, status: ReplicaStatus = S.READY, generation: int = 5) -> Record:
    ranks = Ranks(nodes=3, rank=rank, head="10.0.0.1", own="x", port=1, interface="eth0", url="u", facts=FACTS["m-sim"])
    replica = replace(make_replica("m-sim", launch=Launch(argv=("sim",))), ranks=ranks)
    return Record(replica=replica, status=status, since=NOW - 9, generation=generation)


def heard(rank: int, *, generation: int = 5, runs: bool = True, at: float = NOW, **changes: object) -> Heard:
    report = RankReport(
        generation=generation, runs=runs, status="ready" if runs else "backoff", reason="" if runs else "x"
    )
    box = Box(rank=rank, replicas=FACTS)
    return replace(Heard(at=at, box=box, ranks={"m-sim": report}), **changes)  # type: ignore[arg-type] # any field


def others(*known: Heard, rank: int = 0) -> Others:
    by_rank = {number: one for number, one in enumerate((heard(0), *known)) if number != rank}
    return Others(nodes=nodes(rank), own=Box(rank=rank, replicas=FACTS), heard=by_rank, lost_s=5.0, now=NOW)


def of_head(order: Order | None, *, at: float = NOW, error: str = "") -> Others:
    head = replace(heard(0, at=at), orders={"m-sim": order} if order else {}, error=error)
    return replace(others(heard(1), heard(2), rank=1), heard={0: head, 2: heard(2)})


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (heard(2), ""),
        (heard(2, at=NOW - 4.9), ""),
        (heard(2, at=NOW - 5.1), "box 2 (10.0.0.3): no message for 5 s"),
        (heard(2, runs=False), "rank 2 on 10.0.0.3 is gone (backoff: x)"),
        (heard(2, generation=4), "rank 2 on 10.0.0.3 runs another generation"),
        (heard(2, ranks={}), "rank 2 on 10.0.0.3 is gone ()"),
    ],
)
def test_a_rank_that_is_lost_ends_the_group(second: Heard, reason: str) -> None:
    assert group.broken(record(), others(heard(1), second)) == reason


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (heard(2), ""),
        (Heard(at=NOW), "waits for box 2 (10.0.0.3): no message yet"),
        (heard(2, at=0), "waits for box 2 (10.0.0.3): no message for 1000 s"),
        (Heard(at=NOW, error="no connection"), "waits for box 2 (10.0.0.3): no message yet, no connection"),
        (heard(2, box=Box(rank=2)), "box 2 (10.0.0.3) has no m-sim: set the same BERTH_MODELS on every box"),
        (
            heard(2, box=Box(rank=2, replicas={"m-sim": {"engine": "sim", "GPUs": "4 x A100"}})),
            "the boxes differ: GPUs: box 0 (10.0.0.1) has '4 x H100', box 2 (10.0.0.3) has '4 x A100': " + SAME_GPUS,
        ),
        (
            heard(2, ranks={"m-sim": RankReport(status="failed", reason="no memory")}),
            "rank 2 on 10.0.0.3 has failed: no memory",
        ),
    ],
)
def test_the_head_orders_a_start_when_all_boxes_are_there_and_alike(second: Heard, reason: str) -> None:
    assert group.absence(others(heard(1), second), "m-sim") == reason


def test_the_head_starts_last() -> None:
    assert group.incomplete(others(heard(1), heard(2)), "m-sim", 5) == ""
    late = others(heard(1), heard(2, generation=4, runs=False))
    assert group.incomplete(late, "m-sim", 5) == "waits for rank 2 on 10.0.0.3, backoff: x"
    unheard = others(heard(1), heard(2, ranks={}))
    assert group.incomplete(unheard, "m-sim", 5) == "waits for rank 2 on 10.0.0.3, which has not answered"


def test_a_generation_whose_rank_has_ended_is_not_waited_for() -> None:
    assert group.died_early(others(heard(1), heard(2, runs=False)), "m-sim", 5)
    assert not group.died_early(others(heard(1), heard(2, runs=False)), "m-sim", 6)


@pytest.mark.parametrize("phase", [0.0, 0.1, 0.25, 0.5, 0.89])
def test_five_missed_beats_are_seen_within_six_seconds(phase: float) -> None:
    """By the head and by a box that follows, wherever control's rounds fall between the beats. The clock is made up."""
    timing = Timing()
    lost_s = LOST_BEATS * timing.box_beat_s
    seen: dict[str, float] = {}
    for number in range(20):
        now = NOW + phase + number * timing.calm_poll_s
        at_head = replace(others(heard(1, at=now), heard(2)), lost_s=lost_s, now=now)
        at_other = replace(of_head(Order(generation=5)), lost_s=lost_s, now=now)
        for who, reason in (("head", group.broken(record(), at_head)), ("other", group.stale(record(1), at_other))):
            if reason:
                seen.setdefault(who, now - NOW)
    assert set(seen) == {"head", "other"}
    assert all(LOST_BEATS * timing.box_beat_s < after <= PROMISED_S for after in seen.values()), seen


def test_a_rank_that_ends_is_heard_of_much_earlier() -> None:
    """Its control sees it in a round, sends it with the next look for changes, and the head acts at once."""
    timing = Timing()
    assert timing.calm_poll_s + timing.box_beat_s / 10 + LIMIT_S <= PROMISED_S


@pytest.mark.parametrize(
    ("order", "at", "end", "wait"),
    [
        (Order(generation=5), NOW, "", "to order its start"),
        (Order(generation=6), NOW, "the head has begun another generation", ""),
        (Order(), NOW, "the head's engine has ended", "to order its start"),
        (None, NOW, "the head's engine has ended", "to order its start"),
        (
            Order(generation=5),
            NOW - 6,
            "the head is lost: box 0 (10.0.0.1): no message for 6 s",
            "waits for the head, box 0",
        ),
        (
            Order(generation=6),
            NOW - 6,
            "the head is lost: box 0 (10.0.0.1): no message for 6 s",
            "waits for the head, box 0",
        ),
    ],
)
def test_a_rank_follows_the_head(order: Order | None, at: float, end: str, wait: str) -> None:
    found = of_head(order, at=at)
    assert group.stale(record(1), found) == end
    waits = group.unordered(record(1), found)
    assert wait in waits
    assert bool(wait) is bool(waits)


def test_each_box_shows_what_it_knows() -> None:
    seen = list(group.views(record(), others(heard(1), heard(2, at=0))))
    assert seen[0] == RankState(rank=0, box="10.0.0.1", status="ready", generation=5)
    assert (seen[2].status, seen[2].reason) == ("silent", "box 2 (10.0.0.3): no message for 1000 s")
    assert [one.rank for one in group.views(record(1), of_head(None))] == [0, 1]


def test_the_end_of_a_group_stops_its_ranks() -> None:
    for rank, end, after in (
        (0, GroupEnd(reason="rank 1 is gone"), S.BACKOFF),
        (1, GroupEnd(reason="the head is lost", goal=Goal.LOADED), S.WAITING),
    ):
        before = record(rank)
        seen = Observation(
            records=(before,),
            processes={"m-sim": RUNNING},
            failures={},
            routes=(),
            restarts=Restarts(),
            ends={"m-sim": end},
        )
        (stop,) = decide(seen, NOW)
        assert (stop.to, stop.reason) == (S.STOPPING, end.reason)
        stopping = apply(before, stop, NOW)
        assert decide(replace(seen, records=(stopping,)), NOW) == ()
        gone = replace(seen, records=(stopping,), processes={"m-sim": Process(state=ProcessState.STOPPED)})
        (ended,) = decide(gone, NOW)
        assert ended.to is after


def test_a_start_waits_for_the_other_boxes_and_has_their_generation() -> None:
    before = record(0, S.WAITING)
    seen = Observation(
        records=(before,), processes={}, failures={}, routes=(), restarts=Restarts(), held={"m-sim": "waits for box 1"}
    )
    assert decide(seen, NOW) == ()
    (start,) = decide(replace(seen, held={}, generations={"m-sim": 7}), NOW)
    assert apply(before, start, NOW).generation == 7

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from berth.plan import Keys, Plan
from berth.router.balancing.circuit_breaker import REJECTIONS
from berth.router.balancing.selection import healthy, healthy_first
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.state import ReplicaStatus
from tests.fakes.router import make_plan, publish, replica, replica_state

READY = ReplicaStatus.READY


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    names = ("chat-a", "chat-b", "own-a")
    return make_plan(str(tmp_path), [replica(n, "http://127.0.0.1:1", launched=n == "own-a") for n in names])


@pytest.fixture
def upstreams(plan: Plan) -> Upstreams:
    return Upstreams(plan, Keys())


def candidates(upstreams: Upstreams, plan: Plan, route: int = 0) -> Sequence[Upstream]:
    return healthy_first(upstreams.ready(plan.models[route]), time.monotonic())


def names(upstreams: Upstreams, plan: Plan, route: int = 0) -> list[str]:
    return [upstream.replica.name for upstream in candidates(upstreams, plan, route)]


def test_before_the_first_report_attached_engines_count_as_ready(upstreams: Upstreams, plan: Plan) -> None:
    upstreams.poll()

    assert names(upstreams, plan) == ["chat-a", "chat-b"]
    assert names(upstreams, plan, route=1) == []
    assert "control has not reported yet" in upstreams.not_ready(plan.models[1]).message


def test_what_control_publishes_counts(upstreams: Upstreams, plan: Plan) -> None:
    publish(plan, replica_state("chat-a", ReplicaStatus.UNHEALTHY), replica_state("own-a", READY))
    upstreams.poll()

    assert names(upstreams, plan) == ["chat-b"]
    assert names(upstreams, plan, route=1) == ["own-a"]


def test_a_change_is_read_and_strangers_are_ignored(upstreams: Upstreams, plan: Plan) -> None:
    publish(plan, replica_state("own-a", ReplicaStatus.STARTING))
    upstreams.poll()
    publish(plan, replica_state("own-a", READY), replica_state("stranger", READY), sequence=2)
    upstreams.poll()

    assert upstreams.statuses.keys() == {"chat-a", "chat-b", "own-a"}
    assert names(upstreams, plan, route=1) == ["own-a"]


def test_a_file_that_did_not_change_is_not_read_again(upstreams: Upstreams, plan: Plan) -> None:
    publish(plan)
    upstreams.poll()
    first = upstreams.state
    upstreams.poll()

    assert upstreams.state is first


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": 99}', b"\xff\xfe"])
def test_a_damaged_or_missing_file_leaves_the_last_state(upstreams: Upstreams, plan: Plan, damage: bytes) -> None:
    publish(plan, replica_state("own-a", READY))
    upstreams.poll()

    plan.paths.state.write_bytes(damage)
    upstreams.poll()
    plan.paths.state.unlink()
    upstreams.poll()

    assert names(upstreams, plan, route=1) == ["own-a"]


def test_a_directory_in_its_place_is_no_crash(upstreams: Upstreams, plan: Plan) -> None:
    plan.paths.state.mkdir()

    upstreams.poll()

    assert upstreams.state is None


def test_a_replica_that_refused_is_asked_last_until_it_answers(upstreams: Upstreams, plan: Plan) -> None:
    first, _ = candidates(upstreams, plan)
    upstreams.failed(first, certain=True)
    assert names(upstreams, plan) == ["chat-b", "chat-a"]
    assert upstreams.marked_down() == ["chat-a"]

    upstreams.succeeded(first)

    assert names(upstreams, plan) == ["chat-a", "chat-b"]
    assert upstreams.marked_down() == []
    upstreams.close()


def test_those_left_alone_are_asked_when_all_are(upstreams: Upstreams, plan: Plan) -> None:
    first, second = candidates(upstreams, plan)
    upstreams.failed(first, certain=True)
    assert healthy((first, second), time.monotonic()) == [second]

    upstreams.failed(second, certain=True)

    first.breaker.opened_until = second.breaker.opened_until + 1
    assert healthy((first, second), time.monotonic()) == [second, first]


def test_a_replica_that_only_refuses_is_passed_over_and_counts_as_reachable(upstreams: Upstreams, plan: Plan) -> None:
    first, second = candidates(upstreams, plan)
    for _ in range(REJECTIONS):
        upstreams.overloaded(first, 0.0)
    assert healthy((first, second), time.monotonic()) == [second]
    assert upstreams.marked_down() == []

    upstreams.stream_begun(first)

    assert names(upstreams, plan) == ["chat-a", "chat-b"]
    assert healthy((first, second), time.monotonic()) == [first, second]


def test_a_stream_that_begins_does_not_make_up_for_failures(upstreams: Upstreams, plan: Plan) -> None:
    first, _ = candidates(upstreams, plan)
    upstreams.failed(first, certain=True)
    upstreams.stream_begun(first)

    assert upstreams.marked_down() == ["chat-a"]


def test_a_replica_that_failed_now_and_then_keeps_its_place(upstreams: Upstreams, plan: Plan) -> None:
    first, _ = candidates(upstreams, plan)
    upstreams.failed(first, certain=False)
    upstreams.succeeded(first)

    assert names(upstreams, plan) == ["chat-a", "chat-b"]


def test_a_replica_that_control_finds_ready_again_is_well(upstreams: Upstreams, plan: Plan) -> None:
    first, second = candidates(upstreams, plan)
    publish(plan, replica_state("chat-a", ReplicaStatus.UNHEALTHY))
    upstreams.poll()
    upstreams.failed(first, certain=True)
    upstreams.failed(second, certain=True)

    publish(plan, replica_state("chat-a", READY), replica_state("chat-b", READY), sequence=2)
    upstreams.poll()

    assert upstreams.marked_down() == ["chat-b"]  # nothing new is known of it


@pytest.mark.parametrize(("weights", "twins"), [(("w", "w"), ["chat-b"]), (("w", "v"), []), (("", ""), [])])
def test_only_replicas_with_the_same_weights_go_on_for_each_other(
    tmp_path: Path, weights: tuple[str, str], twins: list[str]
) -> None:
    replicas = [
        replace(replica(name, "http://127.0.0.1:1"), weights=word)
        for name, word in zip(("chat-a", "chat-b"), weights, strict=True)
    ]
    plan = make_plan(str(tmp_path), replicas)
    upstreams = Upstreams(plan, Keys())
    first, _ = candidates(upstreams, plan)

    assert upstreams.has_peer(first) is bool(twins)
    assert [twin.replica.name for twin in upstreams.peers(plan.models[0], first)] == twins


def test_without_a_replica_that_is_ready_there_is_no_twin(tmp_path: Path) -> None:
    plan = make_plan(str(tmp_path), [replace(replica("chat-a", "http://127.0.0.1:1"), weights="w")])
    upstreams = Upstreams(plan, Keys())
    (first,) = candidates(upstreams, plan)
    publish(plan, replica_state("chat-a", ReplicaStatus.BACKOFF))
    upstreams.poll()

    assert upstreams.peers(plan.models[0], first) == []


def test_one_that_is_full_is_named_once_in_the_log(
    upstreams: Upstreams, plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    (first, _) = candidates(upstreams, plan)
    for _ in range(2 * REJECTIONS):
        upstreams.overloaded(first, 0.0)

    assert caplog.text.count("upstream overloaded, backing off") == 1

from pathlib import Path

import pytest

from berth.errors import NotReadyError
from berth.plan import Keys, Plan
from berth.router import upstreams as module
from berth.router.upstreams import Upstreams
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


def names(upstreams: Upstreams, plan: Plan, route: int = 0) -> list[str]:
    return [upstream.replica.name for upstream in upstreams.candidates(plan.models[route])]


def test_before_the_first_report_attached_engines_count_as_ready(upstreams: Upstreams, plan: Plan) -> None:
    upstreams.poll()

    assert names(upstreams, plan) == ["chat-a", "chat-b"]
    with pytest.raises(NotReadyError, match="control has not reported yet"):
        upstreams.candidates(plan.models[1])


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


def test_a_replica_that_refused_is_asked_last_for_a_while(
    upstreams: Upstreams, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstreams.mark_down("chat-a")
    assert names(upstreams, plan) == ["chat-b", "chat-a"]
    assert upstreams.marked_down() == ["chat-a"]

    monkeypatch.setattr(module, "DOWN_S", -1)
    upstreams.mark_down("chat-a")

    assert names(upstreams, plan) == ["chat-a", "chat-b"]
    assert upstreams.marked_down() == []
    upstreams.close()

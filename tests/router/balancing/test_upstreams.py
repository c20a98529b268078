import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from berth.canonical import Operation
from berth.errors import NotReadyError
from berth.plan import DialectName, Discovered, Keys, Launch, Load, Plan
from berth.router.balancing.circuit_breaker import REJECTIONS
from berth.router.balancing.selection import healthy, healthy_first
from berth.router.balancing.upstreams import Upstream, Upstreams
from berth.router.telemetry.status import readiness
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


def test_before_the_first_report_attached_engines_get_requests_but_are_not_ready(
    upstreams: Upstreams, plan: Plan
) -> None:
    upstreams.poll()

    assert not readiness(plan, upstreams.statuses, "chat")[0]
    assert names(upstreams, plan) == ["chat-a", "chat-b"]
    assert names(upstreams, plan, route=1) == []
    assert "control has not reported yet" in upstreams.not_ready(plan.models[1]).message


def test_replicas_follow_the_published_state(upstreams: Upstreams, plan: Plan) -> None:
    publish(plan, replica_state("chat-a", ReplicaStatus.UNHEALTHY), replica_state("own-a", READY))
    upstreams.poll()

    assert names(upstreams, plan) == ["chat-b"]
    assert names(upstreams, plan, route=1) == ["own-a"]


def test_changed_state_is_read_and_unknown_replicas_are_ignored(upstreams: Upstreams, plan: Plan) -> None:
    publish(plan, replica_state("own-a", ReplicaStatus.STARTING))
    upstreams.poll()
    publish(plan, replica_state("own-a", READY), replica_state("stranger", READY), sequence=2)
    upstreams.poll()

    assert upstreams.statuses.keys() == {"chat-a", "chat-b", "own-a"}
    assert names(upstreams, plan, route=1) == ["own-a"]


def test_unchanged_file_is_not_read_again(upstreams: Upstreams, plan: Plan) -> None:
    publish(plan)
    upstreams.poll()
    first = upstreams.state
    upstreams.poll()

    assert upstreams.state is first


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": 99}', b"\xff\xfe"])
def test_invalid_or_missing_file_keeps_the_last_state(upstreams: Upstreams, plan: Plan, damage: bytes) -> None:
    publish(plan, replica_state("own-a", READY))
    upstreams.poll()

    plan.paths.state.write_bytes(damage)
    upstreams.poll()
    plan.paths.state.unlink()
    upstreams.poll()

    assert names(upstreams, plan, route=1) == ["own-a"]


def test_directory_in_place_of_the_state_file_is_ignored(upstreams: Upstreams, plan: Plan) -> None:
    plan.paths.state.mkdir()

    upstreams.poll()

    assert upstreams.state is None


def test_ejected_replica_is_last_until_it_responds(upstreams: Upstreams, plan: Plan) -> None:
    first, _ = candidates(upstreams, plan)
    upstreams.failed(first, certain=True)
    assert names(upstreams, plan) == ["chat-b", "chat-a"]
    assert upstreams.marked_down() == ["chat-a"]

    upstreams.succeeded(first)

    assert names(upstreams, plan) == ["chat-a", "chat-b"]
    assert upstreams.marked_down() == []
    upstreams.close()


def test_ejected_replicas_are_used_when_all_are_ejected(upstreams: Upstreams, plan: Plan) -> None:
    first, second = candidates(upstreams, plan)
    upstreams.failed(first, certain=True)
    assert healthy((first, second), time.monotonic()) == [second]

    upstreams.failed(second, certain=True)

    first.breaker.opened_until = second.breaker.opened_until + 1
    assert healthy((first, second), time.monotonic()) == [second, first]


def test_overloaded_replica_is_skipped_but_reachable(upstreams: Upstreams, plan: Plan) -> None:
    first, second = candidates(upstreams, plan)
    for _ in range(REJECTIONS):
        upstreams.overloaded(first, 0.0)
    assert healthy((first, second), time.monotonic()) == [second]
    assert upstreams.marked_down() == []

    upstreams.stream_begun(first)

    assert names(upstreams, plan) == ["chat-a", "chat-b"]
    assert healthy((first, second), time.monotonic()) == [first, second]


def test_beginning_of_a_stream_does_not_close_the_circuit(upstreams: Upstreams, plan: Plan) -> None:
    first, _ = candidates(upstreams, plan)
    upstreams.failed(first, certain=True)
    upstreams.stream_begun(first)

    assert upstreams.marked_down() == ["chat-a"]


def test_occasional_failures_keep_the_order(upstreams: Upstreams, plan: Plan) -> None:
    first, _ = candidates(upstreams, plan)
    upstreams.failed(first, certain=False)
    upstreams.succeeded(first)

    assert names(upstreams, plan) == ["chat-a", "chat-b"]


def test_restarted_replica_is_healthy_again(upstreams: Upstreams, plan: Plan) -> None:
    first, second = candidates(upstreams, plan)
    publish(plan, replica_state("chat-a", ReplicaStatus.UNHEALTHY), replica_state("chat-b", READY))
    upstreams.poll()
    upstreams.failed(first, certain=True)
    upstreams.failed(second, certain=True)

    publish(plan, replica_state("chat-a", READY), replica_state("chat-b", READY), sequence=2)
    upstreams.poll()

    assert upstreams.marked_down() == ["chat-b"]  # nothing new is known of it


@pytest.mark.parametrize(("weights", "twins"), [(("w", "w"), ["chat-b"]), (("w", "v"), []), (("", ""), [])])
def test_only_replicas_with_the_same_weights_are_peers(
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
    assert [twin.replica.name for twin in upstreams.peers(plan.models[0], first, Operation.CHAT)] == twins


@pytest.mark.parametrize(
    ("dialect", "given", "found", "continued"),
    [
        (DialectName.VLLM, None, None, (True, True)),
        (DialectName.VLLM, False, None, (False, False)),
        (DialectName.OPENAI, None, None, (False, False)),
        (DialectName.OPENAI, None, (), (False, False)),
        (DialectName.OPENAI, None, ("chat",), (True, False)),
        (DialectName.OPENAI, None, ("completion",), (False, True)),
        (DialectName.OPENAI, True, None, (True, True)),
        (DialectName.OPENAI, False, ("chat", "completion"), (False, False)),
    ],
)
def test_only_what_is_known_to_continue_is_a_peer(
    tmp_path: Path,
    dialect: DialectName,
    given: bool | None,
    found: tuple[str, ...] | None,
    continued: tuple[bool, bool],
) -> None:
    first, second = (
        replace(replica(name, "http://127.0.0.1:1", dialect=dialect), weights="w", continues=given)
        for name in ("chat-a", "chat-b")
    )
    plan = make_plan(str(tmp_path), [first, second])
    upstreams = Upstreams(plan, Keys())
    publish(plan, replica_state("chat-a", READY), replica_state("chat-b", READY, continues=found))
    upstreams.poll()
    begun, other = upstreams.ready(plan.models[0])

    assert upstreams.has_peer(begun) is (given is not False)
    for operation, by in zip((Operation.CHAT, Operation.COMPLETION), continued, strict=True):
        assert upstreams.peers(plan.models[0], begun, operation) == ([other] if by else [])


def test_state_without_an_attached_server_leaves_it_in_use(upstreams: Upstreams, plan: Plan) -> None:
    """Control has another plan, or an old state is left."""
    publish(plan, replica_state("chat-a", ReplicaStatus.STARTING))
    upstreams.poll()

    assert names(upstreams, plan) == ["chat-b"]


def test_replica_that_is_not_ready_is_not_a_peer(tmp_path: Path) -> None:
    plan = make_plan(str(tmp_path), [replace(replica("chat-a", "http://127.0.0.1:1"), weights="w")])
    upstreams = Upstreams(plan, Keys())
    (first,) = candidates(upstreams, plan)
    publish(plan, replica_state("chat-a", ReplicaStatus.BACKOFF))
    upstreams.poll()

    assert upstreams.peers(plan.models[0], first, Operation.CHAT) == []


def test_overload_is_logged_once(upstreams: Upstreams, plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    (first, _) = candidates(upstreams, plan)
    for _ in range(2 * REJECTIONS):
        upstreams.overloaded(first, 0.0)

    assert caplog.text.count("upstream overloaded, backing off") == 1


def test_server_that_was_identified_later_is_spoken_to_as_what_it_is(tmp_path: Path) -> None:
    late = replace(replica("chat-a", "http://127.0.0.1:1", dialect=DialectName.OPENAI), detects=True, unreached=True)
    other = replace(replica("chat-b", "http://127.0.0.1:2"), weights="w")
    plan = make_plan(str(tmp_path), [late, other])
    contexts: list[tuple[str, int]] = []
    upstreams = Upstreams(plan, Keys(), on_context=lambda *given: contexts.append(given))
    assert not upstreams.has_peer(candidates(upstreams, plan)[0])
    found = Discovered(
        dialect=DialectName.LLAMACPP,
        api_path="",
        served_name="theirs",
        context=512,
        concurrency=2,
        batch=None,
        weights="w",
    )
    for sequence in (1, 2):
        publish(plan, replica_state("chat-a", READY, discovered=found), sequence=sequence)
        upstreams.poll()

    first = candidates(upstreams, plan)[0]

    assert (first.replica.served_name, first.dialect.name, first.limit) == ("theirs", DialectName.LLAMACPP, 2)
    assert upstreams.has_peer(first)
    assert contexts == [("chat", 512)]
    for engine, names in (("llamacpp", ["chat-a"]), ("openai", []), ("vllm", ["chat-b"])):  # as rules mean them
        directed = replace(plan.models[0], engine=engine, only=True)
        assert [one.replica.name for one in upstreams.ready(directed)] == names


def test_an_engine_that_a_migration_has_changed_is_what_control_says(tmp_path: Path) -> None:
    contexts: list[tuple[str, int]] = []
    launched = replace(replica("chat-a", "http://127.0.0.1:1"), launch=Launch(argv=("x",)), context=64, weights="old")
    plan = make_plan(str(tmp_path), [launched])
    upstreams = Upstreams(plan, Keys(), on_context=lambda *given: contexts.append(given))
    changed = replace(launched, context=512, weights="new", vocab_size=900, concurrency=3)
    for sequence, known in ((1, changed), (2, changed), (3, launched)):
        publish(plan, replica_state("chat-a", READY, discovered=known.as_found), sequence=sequence)
        upstreams.poll()
        (first,) = candidates(upstreams, plan)
        assert replace(first.replica, vocab_size=None) == replace(known, vocab_size=None)

    assert contexts == [("chat", 512), ("chat", 64)]


def test_only_the_engine_of_a_rule_continues_its_streams(tmp_path: Path) -> None:
    replicas = [replace(replica(f"chat-{one}", f"http://127.0.0.1:{one}"), weights="w") for one in (1, 2, 3)]
    plan = make_plan(str(tmp_path), replicas)
    publish(plan, *(replica_state(one.name, READY) for one in replicas))
    upstreams = Upstreams(plan, Keys())
    upstreams.poll()
    first = candidates(upstreams, plan)[0]

    def peers(**rule: Any) -> list[str]:
        return [one.replica.name for one in upstreams.peers(replace(plan.models[0], **rule), first, Operation.CHAT)]

    assert peers() == ["chat-2", "chat-3"]
    assert peers(engine="chat-3") == ["chat-3", "chat-2"]
    assert peers(engine="chat-1", only=True) == []


def test_adapter_goes_only_to_engines_that_have_it(plan: Plan) -> None:
    seen: list[object] = []
    upstreams = Upstreams(plan, Keys(), on_adapters=seen.append)
    route = replace(plan.models[1], added="law")
    for loaded, errors, ready, waits in ((("law",), {}, 1, True), ((), {}, 0, True), ((), {"law": "no."}, 0, False)):
        publish(plan, replica_state("own-a", ReplicaStatus.READY, adapters=loaded, adapter_errors=errors))
        upstreams.poll()
        assert (len(upstreams.ready(route)), upstreams.comes_back(route)) == (ready, waits)
    assert upstreams.not_ready(route).code == "adapter_failed"
    assert upstreams.not_ready(route).message == ("No engine could load adapter 'law': no. See `berth adapters`.")
    assert seen == []


def test_requests_wait_for_what_comes_back_and_not_for_what_pinned_models_keep_out(
    upstreams: Upstreams, plan: Plan
) -> None:
    route = replace(plan.models[1], load=Load.ON_REQUEST)
    for obstructed in (False, True):
        away = replica_state("own-a", ReplicaStatus.UNLOADED, requested="unloaded", obstructed=obstructed)
        publish(plan, away)
        upstreams.poll()
        assert upstreams.comes_back(route) is not obstructed
    for status in (ReplicaStatus.WAITING, ReplicaStatus.STARTING, ReplicaStatus.WAKING):
        publish(plan, replica_state("own-a", status))
        upstreams.poll()
        assert upstreams.comes_back(route)
    publish(plan, replica_state("own-a", ReplicaStatus.UNLOADED, expected_s=40.4))
    upstreams.poll()
    assert upstreams.progress(route) == "model loading, about 40 s left"
    for never in ({"memory_not_free": "GPU 0: held by others"}, {"leased": True}):
        publish(plan, replica_state("own-a", ReplicaStatus.STARTING, **never))
        upstreams.poll()
        assert not upstreams.comes_back(route)


def test_leased_replica_is_for_the_holder_of_its_key_alone(plan: Plan) -> None:
    upstreams, route = Upstreams(plan, Keys()), plan.models[1]
    digest = hashlib.sha256(b"secret").hexdigest()
    own = {b"authorization": b"Bearer secret"}
    others: tuple[dict[bytes, bytes], ...] = ({}, {b"authorization": b"Bearer other"}, {b"x-api-key": digest.encode()})
    for measured_by in (digest, ""):
        publish(plan, replica_state("own-a", ReplicaStatus.STARTING, leased=True, measured_by=measured_by))
        upstreams.poll()
        for headers in others if measured_by else (own, *others):
            with pytest.raises(NotReadyError) as caught:
                upstreams.measured(route, headers)
            assert caught.value.code == "model_leased"
        assert upstreams.ready(route) == []
        key = upstreams.measuring(digest)
        assert (key.models if key else None) == (("own",) if measured_by else None)
        assert upstreams.measuring("") is None
        if measured_by:
            assert [one.replica.name for one in upstreams.measured(route, own)] == ["own-a"]

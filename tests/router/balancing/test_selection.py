"""Which of several engines that all serve is asked, seen from the client's side of a whole router."""

import hashlib
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from berth.apis.openai.chat import OpenaiChat
from berth.canonical import InferenceRequest, Operation
from berth.plan import Keys, ModelRoute, Standby
from berth.router.balancing.admission import Admission
from berth.router.balancing.selection import split
from berth.router.balancing.upstreams import SHARES, Split, Upstream, Upstreams
from berth.router.exchange.inflight import InflightRequest
from berth.router.exchange.request import RequestContext
from berth.router.telemetry.metrics import Meter, layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.state import Canary, ReplicaStatus
from tests.fakes.blocked_requests import BlockedRequests
from tests.fakes.key_board import key_board
from tests.fakes.router import RouterProcess, make_plan, publish, replica, replica_state, route
from tests.fakes.upstream import RESET, FakeUpstream, chat_answer

HOT = Standby.HOT


def asked(its_route: ModelRoute, *, session: bytes = b"", beginnings: tuple[bytes, ...] = ()) -> RequestContext:
    """A chat whose client says and hears nothing."""
    ctx = RequestContext(OpenaiChat(), "x", InflightRequest.__new__(InflightRequest))
    request = InferenceRequest(operation=Operation.CHAT, model=its_route.name, body={})
    ctx.accept(request, its_route, session=session, beginnings=beginnings)
    return ctx


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    router: RouterProcess
    engines: tuple[FakeUpstream, FakeUpstream]

    def blocked(self) -> BlockedRequests:
        for engine in self.engines:
            engine.forget()
        self.router.await_true(lambda: in_flight(self.router.url) == 0)
        return BlockedRequests(self.router.url, self.engines)

    def ask(self, text: str, **headers: str) -> str:
        """The replica that answers."""
        body = {"model": "peers", "messages": [{"role": "user", "content": text}]}
        answer = httpx.post(f"{self.router.url}/v1/chat/completions", json=body, headers=headers, timeout=10)
        return answer.headers["x-berth-replica"]


def in_flight(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("berth_replica_requests_in_flight{"))


def peers(*, affinity: bool) -> Iterator[Peers]:
    run_dir = tempfile.mkdtemp(prefix="br-")
    with FakeUpstream() as first, FakeUpstream() as second:
        replicas = [
            replica("peers-a", first.url),
            replica("peers-b", second.url),
            replica("uneven-a", first.url, share=3),
            replica("uneven-b", second.url),
            replica("order-a", first.url),
            replica("order-b", second.url),
        ]
        routes = [
            route("peers", ["peers-a", "peers-b"], standby=HOT),
            route("uneven", ["uneven-a", "uneven-b"], standby=HOT),
            route("order", ["order-a", "order-b"]),
        ]
        plan = make_plan(run_dir, replicas, routes)
        plan = replace(plan, affinity=affinity, listen=replace(plan.listen, workers=2))
        publish(plan)
        router = RouterProcess(plan)
        router.await_answer()
        yield Peers(router=router, engines=(first, second))
        assert router.stop() == 0
    shutil.rmtree(run_dir)


@pytest.fixture(scope="module")
def free() -> Iterator[Peers]:
    """Two workers that know no conversations."""
    yield from peers(affinity=False)


@pytest.fixture(scope="module")
def sticky() -> Iterator[Peers]:
    yield from peers(affinity=True)


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        pytest.param("peers", [4, 4], id="evenly"),
        pytest.param("uneven", [6, 2], id="by their shares"),
        pytest.param("order", [8, 0], id="one after the other"),
    ],
)
def test_least_loaded_replica_is_first_over_all_workers(free: Peers, model: str, counts: list[int]) -> None:
    with free.blocked() as blocked:
        for number in range(8):
            blocked.send_and_wait(model, f"conversation {number}")
        assert blocked.counts() == counts


def test_idle_replicas_keep_their_order(free: Peers) -> None:
    for engine in free.engines:
        engine.answers(chat_answer())
    assert {free.ask(f"{number}") for number in range(5)} == {"peers-a"}


def test_conversation_stays_with_its_replica(sticky: Peers) -> None:
    for engine in sticky.engines:
        engine.answers(chat_answer())

    places = {number: {sticky.ask(f"conversation {number}") for _ in range(3)} for number in range(12)}

    assert all(len(place) == 1 for place in places.values())
    assert set().union(*places.values()) == {"peers-a", "peers-b"}


def test_session_header_takes_precedence_over_messages(sticky: Peers) -> None:
    for engine in sticky.engines:
        engine.answers(chat_answer())

    assert len({sticky.ask(f"{number}", **{"x-session-id": "alice"}) for number in range(12)}) == 1


def test_a_conversation_does_not_overload_a_replica(sticky: Peers) -> None:
    with sticky.blocked() as blocked:
        for _ in range(12):
            blocked.send_and_wait("peers", "the same")
        few, many = sorted(blocked.counts())
    assert many <= 1.25 * 6 + 3
    assert few > 0


def test_conversations_of_failing_replica_move_to_others(sticky: Peers) -> None:
    first, second = sticky.engines
    first.answers(RESET)
    second.answers(chat_answer())

    assert {sticky.ask(f"conversation {number}") for number in range(12)} == {"peers-b"}


def test_peers_are_ordered_by_load_with_ejected_ones_last(tmp_path: Path) -> None:
    replicas = [replace(replica(f"m-{name}", "http://127.0.0.1:1"), weights="w") for name in "abcd"]
    plan = make_plan(str(tmp_path), replicas, [route("m", [one.name for one in replicas], standby=HOT)])
    Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
    board = Scoreboard(plan.paths.scoreboard, layout(plan))
    meter, upstreams = Meter(board, key_board(board, plan)), Upstreams(plan, Keys())
    first, second, _third, fourth = upstreams.ready(plan.models[0])
    meter.on_replica(second.replica, 2)
    upstreams.failed(fourth, certain=True)

    twins = Admission(plan, upstreams, meter).peers(asked(plan.models[0]), first)

    assert [twin.replica.name for twin in twins] == ["m-c", "m-b", "m-d"]
    board.close()


def test_prompts_that_begin_alike_go_to_one_replica_until_it_is_much_busier(tmp_path: Path) -> None:
    plan = make_plan(
        str(tmp_path),
        [replica(f"m-{name}", "http://127.0.0.1:1") for name in "ab"],
        [route("m", ["m-a", "m-b"], standby=HOT)],
    )
    Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
    board = Scoreboard(plan.paths.scoreboard, layout(plan))
    meter, upstreams = Meter(board, key_board(board, plan)), Upstreams(plan, Keys())
    admission = Admission(plan, upstreams, meter)

    def first(session: int, *beginnings: bytes) -> Upstream:
        ctx = asked(plan.models[0], session=session.to_bytes(16, "big"), beginnings=beginnings)
        return admission.candidates(ctx)[0]

    holder = first(1, b"document")
    assert {first(number, b"document", b"question %d" % number) for number in range(2, 30)} == {holder}
    meter.on_replica(holder.replica, 9)
    assert first(50, b"document") is not holder
    meter.on_replica(holder.replica, -9)
    assert first(50, b"document") is not holder  # where its last turn went
    board.close()


# migrations


def conversation(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode()).digest()


def chosen(share: float, count: int = 2000, salt: bytes = b"1") -> set[int]:
    """The conversations that the candidate gets."""
    upstreams = [Upstream(replica(name, "http://127.0.0.1:1"), None) for name in ("chat-old", "chat-new", "chat-other")]
    canary = Split(upstreams[1], int(share * SHARES), salt)
    orders = {number: split(upstreams, canary, conversation(number), b"") for number in range(count)}
    assert all(order[1:] == [upstreams[0], upstreams[2]] or order[-1] is upstreams[1] for order in orders.values())
    return {number for number, order in orders.items() if order[0] is upstreams[1]}


def test_a_canary_gets_its_share_and_a_conversation_moves_at_most_once() -> None:
    shares = [0.0, 0.01, 0.05, 0.25, 1.0]
    found = [chosen(share) for share in shares]

    assert all(before <= after for before, after in pairwise(found))
    assert (len(found[0]), len(found[-1])) == (0, 2000)
    for share, got in zip(shares, found, strict=True):
        assert abs(len(got) - share * 2000) <= 3 * math.sqrt(2000 * share * (1 - share))
    assert chosen(0.25, salt=b"2") != found[3]  # another migration begins with others


def test_a_client_may_ask_for_a_side() -> None:
    old, new = (Upstream(replica(name, "http://127.0.0.1:1"), None) for name in ("chat-old", "chat-new"))
    canary = Split(new, 0, b"1")

    assert split([old, new], canary, b"x", b"candidate") == [new, old]
    assert split([old, new], canary._replace(share=SHARES), b"x", b"stable") == [old, new]
    assert split([old], canary, b"x", b"candidate") == [old]  # it does not serve now


def test_a_router_follows_the_share_and_then_the_order(tmp_path: Path) -> None:
    plan = make_plan(str(tmp_path), [replica(name, "http://127.0.0.1:1") for name in ("chat-a", "chat-b")])
    states = [replica_state(name, ReplicaStatus.READY) for name in ("chat-a", "chat-b")]
    heard: list[set[str]] = []
    upstreams = Upstreams(plan, Keys(), on_shares=lambda routes, _mirrors: heard.append(set(routes)))
    canaries = tuple(Canary(model="chat", replica=name, share=0.5, salt="1") for name in ("chat-b", "unknown"))

    publish(plan, *states, canaries=canaries[:1])
    upstreams.poll()
    assert upstreams.canaries["chat"].share == SHARES // 2
    publish(plan, *states, canaries=canaries[1:], sequence=2)
    upstreams.poll()
    assert upstreams.canaries == {}
    publish(plan, *states, orders={"chat": ("chat-b", "chat-a")}, sequence=3)
    upstreams.poll()

    assert [one.replica.name for one in upstreams.ready(plan.models[0])] == ["chat-b", "chat-a"]
    assert heard == [{"chat"}, set(), set()]
    upstreams.close()

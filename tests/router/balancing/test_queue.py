"""The order in which queued requests get a slot: by class, rising with time, and by turns of the owners."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from berth.apis.openai.chat import OpenaiChat
from berth.canonical import InferenceRequest, Operation
from berth.plan import ApiKey, ModelRoute
from berth.router.balancing.fairness import Turns
from berth.router.balancing.queue import Queue, Ticket
from berth.router.exchange.headers import Priority
from berth.router.exchange.inflight import InflightRequests
from berth.router.exchange.request import Grant, RequestContext
from berth.router.telemetry.key_board import KeyBoard
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from tests.fakes.key_board import key_board
from tests.fakes.router import make_plan, replica, route

pytestmark = pytest.mark.anyio

STEP_S = 10.0
HIGH, NORMAL, LOW = Priority
ROUTE: ModelRoute = route("m", ["m-a"])
REQUEST = InferenceRequest(operation=Operation.CHAT, model="m", body={})
OWNERS = A, B, C = (1, 2, 3)


async def receive() -> Message:
    raise AssertionError("the request is there")


async def send(message: Message) -> None:
    raise AssertionError(message)


def queued(queue: Queue, since: float, priority: Priority = NORMAL, owner: int = A) -> Ticket:
    """A request that came at that time."""
    ctx = RequestContext(OpenaiChat(), "x", InflightRequests().begin(receive, send))
    ctx.accept(REQUEST, ROUTE, key=ApiKey(name=str(owner), slot=owner), priority=priority)
    ctx.since, ctx.grant = since, Grant(0.0, 0.0, 1.0)
    ticket = Ticket(ctx, (), asyncio.get_running_loop().create_future(), queue.step_s)
    queue.join(ticket)
    return ticket


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyBoard]:
    plan = make_plan(str(tmp_path_factory.mktemp("queue")), [replica("m-a", "http://127.0.0.1:1")])
    Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
    scoreboard = Scoreboard(plan.paths.scoreboard, layout(plan))
    yield key_board(scoreboard, plan)
    scoreboard.close()


def empty_queue(board: KeyBoard) -> Queue:
    for place in range(board.shape.width):
        board.row[place] = 0.0
    return Queue("m", 4 * STEP_S, Turns(board, 0))


@pytest.fixture
async def queue(board: KeyBoard) -> Queue:
    return empty_queue(board)


@pytest.mark.parametrize(
    ("waited_s", "priority", "before"),
    [
        (0, HIGH, {HIGH, NORMAL, LOW}),
        (0, NORMAL, {NORMAL, LOW}),
        (0, LOW, {LOW}),
        (STEP_S, NORMAL, {HIGH, NORMAL, LOW}),
        (STEP_S, LOW, {NORMAL, LOW}),
        (2 * STEP_S, LOW, {HIGH, NORMAL, LOW}),
    ],
)
@pytest.mark.parametrize("owner", [A, B])
async def test_request_rises_with_time(
    queue: Queue, waited_s: float, priority: Priority, before: set[Priority], owner: int
) -> None:
    """Whether its rivals are of the same owner or not."""
    now = 100.0
    ticket = queued(queue, now - waited_s, priority, owner)
    rivals = [queued(queue, now + 0.001, one) for one in Priority]

    order = list(queue.in_order(now + 0.001))

    assert {rival.ctx.priority for rival in rivals if order.index(ticket) < order.index(rival)} == before


async def test_owners_take_turns(queue: Queue) -> None:
    greedy = [queued(queue, number, owner=A) for number in range(6)]
    modest = [queued(queue, 6 + number, owner=B) for number in range(2)]
    third = queued(queue, 8, owner=C)

    order = list(queue.in_order(8.0))

    assert order == [greedy[0], modest[0], third, greedy[1], modest[1], *greedy[2:]]


async def test_turns_are_remembered(queue: Queue) -> None:
    for number in range(3):
        queue.served(queued(queue, number, owner=A))
    late, early = queued(queue, 10, owner=B), queued(queue, 5, owner=A)

    assert list(queue.in_order(10.0)) == [late, early]
    queue.served(late)
    again = queued(queue, 6, owner=B)
    assert list(queue.in_order(10.0)) == [early, again]


async def test_class_counts_before_turns(queue: Queue) -> None:
    queue.served(queued(queue, 0, owner=A))
    urgent, other = queued(queue, 9, HIGH, A), queued(queue, 1, NORMAL, B)

    assert list(queue.in_order(9.0)) == [urgent, other]


async def test_requests_may_leave_while_the_order_is_read(queue: Queue) -> None:
    tickets = [queued(queue, number, owner=owner) for number, owner in enumerate(3 * OWNERS)]
    order = []
    for ticket in queue.in_order(10.0):
        order.append(ticket)
        if len(order) % 2:
            queue.served(ticket)

    assert order == tickets
    assert (queue.length, list(queue.in_order(10.0))) == (4, [tickets[place] for place in (1, 3, 5, 7)])


async def test_full_queue_gives_a_place_of_the_greediest_to_others(queue: Queue) -> None:
    greedy = [queued(queue, number, owner=A) for number in range(3)]
    queued(queue, 5, owner=B)

    assert queue.crowded_out_by(A) is None
    assert queue.crowded_out_by(B) is greedy[-1]
    assert queue.crowded_out_by(C) is greedy[-1]
    queue.leave(greedy[0])
    assert queue.crowded_out_by(B) is None


async def test_empty_queue_has_no_place_to_give(queue: Queue) -> None:
    assert queue.crowded_out_by(A) is None


ARRIVALS = st.lists(st.tuples(st.sampled_from(Priority), st.sampled_from(OWNERS)), min_size=1, max_size=40)


@given(arrivals=ARRIVALS)
def test_order_has_each_request_once_and_position_is_the_place(
    board: KeyBoard, arrivals: list[tuple[Priority, int]]
) -> None:
    async def run() -> None:
        queue, now = empty_queue(board), time.monotonic()
        tickets = [queued(queue, now - number / 1000, *one) for number, one in enumerate(arrivals)]
        order = list(queue.in_order(now))

        assert Counter(order) == Counter(tickets)
        if len({one.ctx.priority for one in tickets}) == 1:
            assert [queue.position(one) for one in order] == list(range(1, len(order) + 1))
        assert all(1 <= queue.position(one) <= len(order) for one in order)

    asyncio.run(run())


@given(rounds=st.lists(ARRIVALS, min_size=1, max_size=12), data=st.data())
def test_nobody_starves(board: KeyBoard, rounds: list[list[tuple[Priority, int]]], data: st.DataObject) -> None:
    """A request waits for those that came before it, for what others had in the first class when it got there, and for
    one turn of each owner between any two of its own owner's; never for what comes later, whatever it asks for.
    """
    patient = data.draw(st.sampled_from(Priority))

    async def run() -> None:
        queue = empty_queue(board)
        ticket = queued(queue, 0.0, patient, 9)
        now, waited = 2 * STEP_S, 0
        for arrivals in rounds:
            for one in arrivals:
                queued(queue, now, *one)
            now += 0.001
            first = next(queue.in_order(now))
            queue.served(first)
            if first is ticket:
                break
            waited += 1
        assert waited < 1 + len(OWNERS)

    asyncio.run(run())


async def test_position_counts_what_others_have_before_it(queue: Queue) -> None:
    now = time.monotonic()
    first, second = (queued(queue, now - 3 + number, owner=A) for number in range(2))
    urgent = queued(queue, now, HIGH, B)
    others = [queued(queue, now - 1 + number / 10, owner=B) for number in range(3)]

    assert [queue.position(one) for one in (urgent, first, second, others[0], others[1])] == [1, 2, 3, 4, 5]
    assert "at position 3 of the queue" in str(queue.timeout_error(second, 5.0))

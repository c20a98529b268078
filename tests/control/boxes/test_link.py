"""Two controls that hear each other over real sockets; what they know of their replicas is made up."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from berth.boot.planner.boxes import ask_boxes
from berth.control.boxes.link import Boxes
from berth.control.decisions.records import GroupEnd, Record, Timing
from berth.control.runtime import Runtime
from berth.control.supervisord_client import Process, ProcessState, SupervisordClient
from berth.host.gpu_usage import Gpus
from berth.ipc.box_link import LinkError, Question, ask
from berth.plan import Box, Launch, Node, Nodes, Ranks
from berth.state import ReplicaStatus
from tests.fakes.plans import make_plan, make_replica
from tests.fakes.ports import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]
S = ReplicaStatus
KEY = "k" * 32
FACTS = {"engine": "sim 1", "GPUs": "none"}
TIMING = Timing(box_beat_s=0.2)


@dataclass(kw_only=True)
class Side:
    """One box."""

    boxes: Boxes
    runtime: Runtime
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    @property
    def record(self) -> Record:
        return self.runtime.records["m-sim"]

    def becomes(self, status: ReplicaStatus, **fields: object) -> None:
        self.runtime.records["m-sim"] = replace(self.record, status=status, **fields)  # type: ignore[arg-type] # any field

    def judge(self) -> tuple[Mapping[str, str], Mapping[str, int]]:
        return self.boxes.judge([self.record], asyncio.get_running_loop().time())

    def ends(self, processes: Mapping[str, Process] | None = None) -> Mapping[str, GroupEnd]:
        return self.boxes.ends(processes or {}, asyncio.get_running_loop().time())


def side(nodes: Nodes, *, key: str = KEY, facts: Mapping[str, str] = FACTS, attended: bool = False) -> Side:
    head = nodes.rank == 0
    ranks = Ranks(
        nodes=2, rank=nodes.rank, head="127.0.0.1", own=nodes.own.address, port=1, interface="lo", url="u", facts=facts
    )
    launch = Launch(argv=("sim",))
    replica = replace(
        make_replica("m-sim", launch=launch), ranks=ranks, attendant=launch if attended and head else None
    )
    plan = replace(make_plan("/run", replica), nodes=nodes)
    record = Record(replica=replica, status=S.WAITING, since=0)
    runtime = Runtime(
        plan=plan,
        timing=TIMING,
        supervisord=SupervisordClient(plan.paths.supervisord_socket),
        gpus=Gpus(()),
        records={"m-sim": record},
        followers={},
    )
    return Side(boxes=Boxes(runtime, key), runtime=runtime)


def two() -> tuple[Nodes, Nodes]:
    boxes = (Node(address="127.0.0.1", port=free_port()), Node(address="127.0.0.2", port=free_port()))
    return Nodes(boxes=boxes, rank=0, interface="lo"), Nodes(boxes=boxes, rank=1, interface="lo")


async def settled() -> None:
    """No connection is open."""
    while True:
        await asyncio.sleep(0.05)  # one that was accepted just now
        if not any("Boxes._serve" in repr(task.get_coro()) for task in asyncio.all_tasks()):
            return


@asynccontextmanager
async def running(*sides: Side) -> AsyncIterator[None]:
    try:
        for one in sides:
            one.tasks.append(asyncio.ensure_future(one.boxes.run()))
        yield
    finally:
        for one in reversed(sides):  # who asks first: then every connection has been answered
            for task in one.tasks:
                task.cancel()
            await asyncio.wait(one.tasks)
            await settled()


def orders(head: Side, other: Side) -> int:
    """The generation that the other box may start, as the head looks at its replica again."""
    head.judge()
    return other.judge()[1].get("m-sim", 0)


async def start(head: Side, other: Side) -> int:
    """The rank that follows starts as it is ordered, until the head may start too. The generation."""
    while not (started := head.judge()[1]):
        if generation := orders(head, other):
            other.becomes(S.STARTING, generation=generation)
        await asyncio.sleep(0.02)
    return started["m-sim"]


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - what is waited for are the other box's messages
        await asyncio.sleep(0.02)


async def test_ranks_start_together_with_the_head_last_and_end_together() -> None:
    nodes = two()
    head, other = side(nodes[0]), side(nodes[1])
    async with running(head, other):
        await until(lambda: "waits for rank 1" in head.judge()[0].get("m-sim", ""))
        assert head.judge()[1] == {}
        generation = await start(head, other)
        head.becomes(S.STARTING, generation=generation)
        await until(lambda: not other.ends() and not head.ends())
        assert not other.record.health.ok
        head.becomes(S.READY)
        await until(lambda: other.record.health.ok)
        other.becomes(S.READY)
        await until(lambda: [one.status for one in head.boxes.views()["m-sim"]] == ["ready", "ready"])
        other.becomes(S.BACKOFF, reason="killed")
        await until(lambda: "rank 1 on 127.0.0.2" in head.ends().get("m-sim", GroupEnd(reason="")).reason)
        head.becomes(S.WAITING)
        await until(lambda: orders(head, other) > 0)
        assert other.judge()[1]["m-sim"] > generation


async def test_a_rank_that_ends_before_the_head_starts_gets_another_generation() -> None:
    nodes = two()
    head, other = side(nodes[0]), side(nodes[1])
    async with running(head, other):
        await until(lambda: orders(head, other) > 0)
        first = orders(head, other)
        other.becomes(S.BACKOFF, generation=first)
        await until(lambda: orders(head, other) > first)


async def test_silence_ends_the_ranks_on_both_sides() -> None:
    nodes = two()
    head, other = side(nodes[0]), side(nodes[1])
    async with running(head, other):
        generation = await start(head, other)
        other.becomes(S.READY)
        head.becomes(S.READY, generation=generation)
        await until(lambda: not other.ends() and not head.ends())
        for task in other.tasks:
            task.cancel()
        await asyncio.wait(other.tasks)
        await settled()
        for task in head.tasks:
            task.cancel()
        await until(lambda: bool(head.ends()) and bool(other.ends()))
        assert "no message for" in head.ends()["m-sim"].reason
        assert "the head is lost" in other.ends()["m-sim"].reason
        assert head.boxes.views()["m-sim"][1].status == "silent"


async def test_a_stale_rank_is_ended_when_the_head_comes_back() -> None:
    nodes = two()
    head, other = side(nodes[0]), side(nodes[1])
    other.becomes(S.READY, generation=7)
    async with running(head, other):
        await until(lambda: "m-sim" in other.ends())
        await until(lambda: "head" in other.ends()["m-sim"].reason and other.ends()["m-sim"].goal is not None)
        await until(
            lambda: "the head" in other.ends()["m-sim"].reason and head.boxes.views()["m-sim"][1].generation == 7
        )
        assert head.judge()[1] == {}


async def test_boxes_that_differ_do_not_start() -> None:
    nodes = two()
    head, other = side(nodes[0]), side(nodes[1], facts={**FACTS, "engine": "sim 2"})
    async with running(head, other):
        await until(lambda: "the boxes differ" in head.judge()[0]["m-sim"])
        shown = head.judge()[0]["m-sim"]
    assert "engine: box 0 (127.0.0.1:" in shown
    assert "has 'sim 1', box 1 (127.0.0.2:" in shown
    assert shown.endswith("has 'sim 2': run the same image on every box")
    assert other.judge()[1] == {}


async def test_another_key_is_named_on_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    nodes = two()
    head, other = side(nodes[0]), side(nodes[1], key="x" * 32)
    with caplog.at_level("INFO", "berth"):
        async with running(head, other):
            await until(lambda: "another BERTH_NODES_KEY" in other.judge()[0]["m-sim"])
            await until(lambda: "message of a box rejected" in caplog.text)
            await until(lambda: "another BERTH_NODES_KEY: set" in head.judge()[0]["m-sim"])
    assert "no message yet" in head.judge()[0]["m-sim"]
    assert other.ends() == {}


async def test_another_list_of_boxes_is_named_on_both_sides() -> None:
    nodes = two()
    third = Node(address="127.0.0.3", port=1)
    head, other = side(nodes[0]), side(replace(nodes[1], boxes=(*nodes[1].boxes, third)))
    async with running(head, other):
        for one in (head, other):
            await until(lambda seen=one: "BERTH_NODES differs: 127.0.0.2 has" in seen.judge()[0]["m-sim"])  # type: ignore[misc] # bound here
    assert head.judge()[1] == {}


async def test_the_end_of_rays_head_ends_the_ranks() -> None:
    nodes = two()
    head, other = side(nodes[0], attended=True), side(nodes[1])
    async with running(head, other):
        head.becomes(S.READY, generation=7)
        other.becomes(S.READY, generation=7)
        await until(lambda: [one.status for one in head.boxes.views()["m-sim"]] == ["ready", "ready"])
        alive = {"m-sim.ray": Process(state=ProcessState.RUNNING, pid=1)}
        await until(lambda: head.ends(alive) == {})
        await until(lambda: head.ends().get("m-sim") == GroupEnd(reason="Ray's head has ended"))


async def test_questions_that_make_no_sense_are_answered_with_the_reason() -> None:
    nodes = two()
    head, other = side(nodes[0]), side(nodes[1])
    listed = tuple(map(str, nodes[0].boxes))
    async with running(head, other):
        await until(lambda: "waits for rank 1" in head.judge()[0].get("m-sim", ""))
        question = Question(kind="box", nonce="", boxes=listed, box=Box(rank=1))
        answer = await ask(nodes[0].head, question, KEY)
        assert answer.box is not None
        assert answer.box.replicas == {"m-sim": FACTS}
        for wrong, reason in (
            (replace(question, boxes=("10.0.0.9",)), "BERTH_NODES differs"),
            (replace(question, kind="beat"), "a message of box 1 from 127.0.0.1"),
        ):
            with pytest.raises(LinkError, match=reason):
                await ask(nodes[0].head, wrong, KEY)
        found = await asyncio.to_thread(ask_boxes, nodes[0], KEY)
        assert [box.rank for box in found] == [1]
    assert await asyncio.to_thread(ask_boxes, nodes[0], KEY) == ()


async def test_an_address_in_use_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("berth.control.boxes.link._RETRY_S", 0.05)
    nodes = two()
    head, other = side(nodes[0]), side(nodes[1])
    blocker = socket.create_server((nodes[0].own.address, nodes[0].own.port))
    with caplog.at_level("INFO", "berth"):
        async with running(head, other):
            await until(lambda: "cannot listen for other boxes" in caplog.text)
            blocker.close()
            await until(lambda: "waits for rank 1" in head.judge()[0].get("m-sim", ""))


async def test_without_other_boxes_nothing_happens() -> None:
    alone = side(replace(two()[0]))
    without = Boxes(
        Runtime(
            plan=replace(alone.runtime.plan, nodes=None),
            timing=TIMING,
            supervisord=alone.runtime.supervisord,
            gpus=alone.runtime.gpus,
            records=alone.runtime.records,
            followers={},
        ),
        "",
    )
    await without.run()
    assert (without.judge([alone.record], 0.0), without.ends({}, 0.0), without.views()) == (({}, {}), {}, {})

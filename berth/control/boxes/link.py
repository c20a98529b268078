"""The other boxes, as control hears them: every control listens at its box's address, and those of the followers
report to the head once per beat, and at once when something has changed.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from berth.control.boxes import group
from berth.control.boxes.group import LOST_BEATS, Heard, Others
from berth.control.decisions.records import Goal, GroupEnd, Record
from berth.control.probes import after_probe
from berth.control.runtime import Runtime
from berth.control.supervisord_client import Process
from berth.ipc.box_link import Answer, LinkError, Order, Question, RankReport, answer_one, ask
from berth.log import log
from berth.plan import Nodes
from berth.state import RankState, ReplicaStatus

_S = ReplicaStatus
_RETRY_S = 5.0  # to listen at an address that is not there yet


class Boxes:
    """Without BERTH_NODES it does nothing."""

    def __init__(self, runtime: Runtime, key: str) -> None:
        self._runtime = runtime
        self._key = key
        self._nodes = runtime.plan.nodes
        self._beat_s = runtime.timing.box_beat_s
        self._pending: dict[str, int] = {}  # replica -> the generation that the other ranks are to start
        self._reported: dict[int, str] = {}  # rank -> what was logged of it last
        began, boxes = time.monotonic(), self._nodes.boxes if self._nodes else ()
        self._heard = {rank: Heard(at=began) for rank in range(len(boxes))}
        self._own = runtime.plan.box

    def others(self, now: float) -> Others | None:
        if self._nodes is None:
            return None
        lost_s = LOST_BEATS * self._beat_s
        return Others(nodes=self._nodes, own=self._own, heard=self._heard, lost_s=lost_s, now=now)

    async def run(self) -> None:
        """Until it is cancelled."""
        if self._nodes is None:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(self._nodes))
            if self._nodes.rank:
                tasks.create_task(self._beats(self._nodes))

    def judge(self, starting: Sequence[Record], now: float) -> tuple[Mapping[str, str], Mapping[str, int]]:
        """Which of the replicas that would start now may not, and why; and the generations of those that may."""
        others = self.others(now)
        held: dict[str, str] = {}
        generations: dict[str, int] = {}
        if others is None:
            return held, generations
        spread = [record for record in starting if record.replica.ranks]
        for name in set(self._pending) - {record.replica.name for record in spread}:
            del self._pending[name]
        for record in spread:
            name = record.replica.name
            if record.replica.follows:
                reason, generation = group.unordered(record, others), others.order(name).generation
            else:
                reason, generation = self._order_start(record, others)
            if reason:
                held[name] = reason
            else:
                generations[name] = generation
        return held, generations

    def _order_start(self, record: Record, others: Others) -> tuple[str, int]:
        """Of the head: why its engine does not start yet, and the generation."""
        name = record.replica.name
        if reason := group.absence(others, name):
            self._pending.pop(name, None)
            return reason, 0
        generation = self._pending.get(name)
        if generation is None or group.died_early(others, name, generation):
            generation = self._pending[name] = max(
                int(time.time() * 1000), record.generation + 1, (generation or 0) + 1
            )
        return group.incomplete(others, name, generation), generation

    def ends(self, processes: Mapping[str, Process], now: float) -> Mapping[str, GroupEnd]:
        """The running ranks that have to stop."""
        others = self.others(now)
        found: dict[str, GroupEnd] = {}
        if others is None:
            return found
        for name, record in self._runtime.records.items():
            replica = record.replica
            if not replica.ranks or not group.is_running(record):
                continue
            if replica.follows:
                if reason := group.stale(record, others):
                    found[name] = GroupEnd(reason=reason, goal=Goal.LOADED)
                continue
            attendant = processes.get(replica.attendant_name)
            reason = group.broken(record, others)
            if replica.attendant and (attendant is None or not attendant.alive):
                reason = reason or "Ray's head has ended"
            if reason:
                found[name] = GroupEnd(reason=reason)
        return found

    def views(self) -> Mapping[str, tuple[RankState, ...]]:
        """The ranks of each replica that runs on several boxes."""
        others = self.others(time.monotonic())
        if others is None:
            return {}
        records = self._runtime.records
        return {name: tuple(group.views(one, others)) for name, one in records.items() if one.replica.ranks}

    async def _listen(self, nodes: Nodes) -> None:
        own = nodes.own
        while True:
            try:
                server = await asyncio.start_server(self._serve, own.address, own.port)
                break
            except OSError as error:
                log.error("cannot listen for other boxes", address=str(own), error=str(error), next="control retries")
                await asyncio.sleep(_RETRY_S)
        log.info("listening for other boxes", address=str(own), interface=nodes.interface, rank=nodes.rank)
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str((writer.get_extra_info("peername") or ("unknown",))[0])
        error = await answer_one(reader, writer, self._key, lambda question: self.answer(question, peer))
        if error:
            self._report(-1, f"{peer}: {error}")
            for rank, node in enumerate(self._nodes.boxes if self._nodes else ()):
                if node.address == peer:  # so the head says why this box counts as gone
                    self._heard[rank] = replace(self._heard[rank], error=error)

    def answer(self, question: Question, peer: str) -> Answer:
        """To another box at the address `peer`."""
        nodes, rank = self._nodes, question.box.rank
        if nodes is None:  # pragma: no cover - then nothing listens
            return Answer(error="no BERTH_NODES here")
        listed = tuple(map(str, nodes.boxes))
        if question.boxes != listed:
            theirs, ours = ", ".join(question.boxes), ", ".join(listed)
            return Answer(error=f"BERTH_NODES differs: {peer} has {theirs}, box {nodes.rank} ({nodes.own}) has {ours}")
        if question.kind == "box":
            return Answer(box=self._own)
        if not 0 < rank < len(listed) or nodes.rank or nodes.boxes[rank].address != peer:
            return Answer(
                error=f"a message of box {rank} from {peer} for box {nodes.rank} ({nodes.own}): see BERTH_NODE"
            )
        before = self._heard[rank]
        self._heard[rank] = Heard(at=time.monotonic(), box=question.box, ranks=question.ranks)
        if before.ranks != question.ranks or before.box is None:
            self._runtime.changed.set()
        self._report(rank, "")
        return Answer(box=self._own, orders=self.orders(), ranks=self._reports())

    def orders(self) -> Mapping[str, Order]:
        """What the head wants of the other boxes."""
        orders = {}
        for name, record in self._runtime.records.items():
            if record.replica.ranks and not record.replica.follows:
                runs = group.is_running(record)
                generation = record.generation if runs else self._pending.get(name, 0)
                orders[name] = Order(generation=generation, ready=record.status is _S.READY)
        return orders

    def _reports(self) -> Mapping[str, RankReport]:
        records = self._runtime.records
        return {name: group.report_of(one) for name, one in records.items() if one.replica.ranks}

    async def _beats(self, nodes: Nodes) -> None:
        """Of a follower, to the head."""
        sent: Mapping[str, RankReport] = {}
        while True:
            began = time.monotonic()
            sent = self._reports()
            question = Question(kind="beat", nonce="", boxes=tuple(map(str, nodes.boxes)), box=self._own, ranks=sent)
            try:
                answer = await ask(nodes.head, question, self._key, source=nodes.own.address)
            except LinkError as error:
                self._heard[0] = replace(self._heard[0], error=str(error))
                self._report(0, str(error))
            else:
                self._heard[0] = Heard(at=began, box=answer.box, ranks=answer.ranks, orders=answer.orders)
                self._report(0, "")
                self.follow(answer.orders)
            while time.monotonic() < began + self._beat_s and self._reports() == sent:  # noqa: ASYNC110 - many change it
                await asyncio.sleep(self._beat_s / 10)

    def follow(self, orders: Mapping[str, Order]) -> None:
        """A rank is ready when the head is; and the loop looks at orders at once."""
        records = self._runtime.records
        for name, order in orders.items():
            record = records.get(name)
            if record is None or not record.replica.follows:
                continue
            if order.ready and order.generation == record.generation and not record.health.ok:
                records[name] = replace(record, health=after_probe(record.health, ""))
            if order.ready is not record.health.ok or order.generation != record.generation:
                self._runtime.changed.set()

    def _report(self, rank: int, error: str) -> None:
        """Logs what has changed about a box."""
        before = self._reported.get(rank, None if rank < 0 else "unknown")
        if before == error:
            return
        self._reported[rank] = error
        box = "" if rank < 0 or self._nodes is None else str(self._nodes.boxes[rank])
        if not box:
            log.warning("message of a box rejected", reason=error)
        elif error:
            log.warning("box unreachable", box=box, rank=rank, reason=error)
        else:
            log.info("box connected", box=box, rank=rank)

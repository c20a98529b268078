"""The forwarding part of a worker, in the test's own process: requests of any API, and what their clients have."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from starlette.types import Message

from berth.apis.base import NO_HEADERS, ApiFormat, Headers
from berth.canonical import InferenceRequest
from berth.errors import ApiError
from berth.ipc.journal import NO_TRACE, Trace
from berth.plan import Keys, Limits, ModelRoute, Replica
from berth.router.balancing.admission import Admission
from berth.router.balancing.hang_detector import HangDetector
from berth.router.balancing.upstreams import Upstreams
from berth.router.exchange.headers import RequestIds
from berth.router.exchange.inflight import InflightRequests
from berth.router.exchange.off_loop import OffLoop
from berth.router.exchange.request import RequestContext
from berth.router.forwarding.attempt import Attempts
from berth.router.forwarding.proxy import Proxy
from berth.router.telemetry.metrics import Meter, layout
from berth.router.telemetry.request_journal import RequestJournal
from berth.router.telemetry.shared_counters import Scoreboard
from berth.state import ReplicaStatus
from tests.fakes.key_board import key_board
from tests.fakes.router import LIMITS, make_plan, publish, replica, replica_state
from tests.fakes.upstream import FakeUpstream, chat_answer


class Client:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.ended = False
        self.has_some = threading.Event()  # of the body

    async def receive(self) -> Message:
        raise AssertionError("the request is there")

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message["body"]
            self.has_some.set()
            self.ended = not message.get("more_body")


class Forwarding:
    def __init__(
        self, run_dir: Path, replicas: Sequence[Replica], routes: Sequence[ModelRoute] = (), limits: Limits = LIMITS
    ) -> None:
        self.plan = make_plan(str(run_dir), replicas, routes, limits)
        Scoreboard.create(self.plan.paths.scoreboard, layout(self.plan), rows=1)
        self.board = Scoreboard(self.plan.paths.scoreboard, layout(self.plan))
        self.meter = Meter(self.board, key_board(self.board, self.plan))
        self.upstreams = Upstreams(self.plan, Keys())
        self.journal = RequestJournal(self.plan.paths.journal, self.plan, 0)
        self.admission = admission = Admission(self.plan, self.upstreams, self.meter)
        attempts = Attempts(
            self.upstreams,
            admission,
            HangDetector(self.upstreams, admission, limits),
            limits=limits,
            meter=self.meter,
            journal=self.journal,
            request_ids=RequestIds(),
            off_loop=OffLoop(),
        )
        self.proxy = Proxy(self.upstreams, admission, attempts, self.meter)
        self.inflight = InflightRequests()

    async def ask(
        self, api: ApiFormat, body: bytes, client: Client, headers: Headers = NO_HEADERS, trace: Trace = NO_TRACE
    ) -> RequestContext:
        """The request as it was in the end. Raises what a client would get as an internal error. With a trace it is in
        the journal.
        """
        request = api.parse(body, headers)
        assert isinstance(request, InferenceRequest)
        ctx = RequestContext(api, "x", self.inflight.begin(client.receive, client.send))
        ctx.accept(request, next(one for one in self.plan.models if one.name == request.model))
        ctx.trace = trace
        if trace.trace_id:
            self.journal.running[ctx] = 1
        try:
            await self.proxy.serve(ctx)
        except ApiError as error:
            await ctx.fail(error)
        finally:
            self.inflight.end(ctx.inflight)
            if trace.trace_id:
                self.journal.put(ctx, 1)
        return ctx

    async def ask_until_queued(
        self, engines: Iterable[FakeUpstream], *asked: Coroutine[Any, Any, RequestContext]
    ) -> list[RequestContext]:
        """The requests, all at once, whose answers the engines hold back until one of the requests is queued."""
        release = threading.Event()
        for engine in engines:
            engine.answers(release, chat_answer())
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in asked]
            while not self.admission.waiting:  # noqa: ASYNC110 - it tells no one
                await asyncio.sleep(0.01)
            release.set()
        return [task.result() for task in tasks]

    def close(self) -> None:
        self.upstreams.close()
        self.journal.close()
        self.board.close()


def forwarding_to(folder: Path, engines: Iterable[FakeUpstream]) -> Forwarding:
    """With these engines of one model, `chat-a` and so on, that have the same weights and are ready."""
    replicas = [
        replace(replica(f"chat-{letter}", engine.url, concurrency=1, vocab_size=1000), weights="w")
        for letter, engine in zip(ascii_lowercase, engines, strict=False)
    ]
    made = Forwarding(folder, replicas)
    publish(made.plan, *(replica_state(one.name, ReplicaStatus.READY) for one in replicas))
    made.upstreams.poll()
    return made

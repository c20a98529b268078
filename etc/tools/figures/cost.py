"""What keys, limits, usage, traces and the journal cost a request and a token, and a canary, rules, and a model that is
loaded on request: `make figures FIGURES=--cost`.

Applications of the router take turns in one process, up to `all` each with one feature more than the one before: `off`
writes no journal and knows no keys, with `all` each request has a key with every limit, and a sampled trace. The others
are as `journal`, and control has said that all engines are ready: `ready` has one engine, `rules` also 20 rules of
BERTH_ROUTES of which none holds, and with `on request` the model is one that may be unloaded; `pair` has two engines,
of which `canary` gives the second one 25 % of the conversations. Their engine
responds within the call that sends the request to it: without sockets and a server nothing is waited for, so that
little else can change what is measured. That is the CPU time of this thread: the median over rounds of what a block of
requests takes longer than the same block without the features. Where others use the machine too, all of it takes
several times as long, and only what it is in relation to `off` says something.

The calls of one request do not vary at all: `calls` counts them, and the budgets compare them. A compiled module calls
without the interpreter: what the image takes is measured after `make compiled`, with PYTHONPATH=.compiled.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar, cast

import uvloop
from starlette.types import Message

from berth.plan import ApiKey, Keys, Load, Plan, RoutingRule, Tracing
from berth.plan.keys import digest
from berth.router.app import App
from berth.router.forwarding.stream import FlushRounds
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.upstream.connection import Connection
from berth.router.worker import Worker
from berth.state import Canary, ReplicaState, ReplicaStatus, State
from etc.tools.figures.engine import WORD, stream_parts, whole_response
from tests.fakes.router import make_plan, replica

T = TypeVar("T")

ROUNDS: Final = 60
REQUESTS: Final = 200  # of one application in a round
STREAMS: Final = 4
TOKENS: Final = 50  # of a stream
KEY: Final = "key-of-all-features-0123456789"
NAMED: Final = ApiKey(name="all", slot=1, digests=(digest(KEY),))
LIMITED: Final = replace(
    NAMED,
    requests_per_minute=10**8,
    tokens_per_minute=10**10,
    concurrency=100,
    tokens_per_day=10**12,
    tokens_per_month=10**13,
)
TRACEPARENT: Final = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACED: Final = Tracing(endpoint="http://127.0.0.1:9/v1/traces")
CANARY: Final = Canary(model="chat", replica="chat-b", share=0.25, salt="1")
_KINDS: Final = (  # none of them holds
    RoutingRule(name="", path="/batch", priority="low"),
    RoutingRule(name="", has=("tools",), engine="chat-a"),
    RoutingRule(name="", keys=("nightly",), priority="low"),
    RoutingRule(name="", headers={"user-agent": "claude-cli/*"}, engine="chat-a"),
    RoutingRule(name="", least_tokens=16000, engine="chat-a"),
)
RULES: Final = tuple(replace(_KINDS[number % len(_KINDS)], name=f"rule {number + 1}") for number in range(20))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Of one application."""

    keys: Keys = field(default_factory=Keys)
    tracing: Tracing | None = None
    journal: bool = True
    engines: int = 0  # of which a state says that they are ready; 0: one, and there is no state
    canaries: tuple[Canary, ...] = ()
    rules: tuple[RoutingRule, ...] = ()
    load: Load = Load.ALWAYS

    def plan(self, run_dir: Path) -> Plan:
        names = ["chat-a", "chat-b"][: self.engines or 1]
        plan = make_plan(str(run_dir), [replica(name, "http://127.0.0.1:9") for name in names])
        models = (replace(plan.models[0], load=self.load),)
        open_access = not self.keys.api_keys
        return replace(plan, models=models, tracing=self.tracing, rules=self.rules, open_access=open_access)

    def state(self, plan: Plan) -> State:
        ready = (ReplicaState(name=one.name, status=ReplicaStatus.READY, since=0.0, reason="") for one in plan.replicas)
        return State(sequence=1, published_at=time.time(), control_pid=1, replicas=tuple(ready), canaries=self.canaries)


FEATURES: Final[Mapping[str, Setup]] = {  # each with those above it
    "off": Setup(journal=False),
    "journal": Setup(),
    "key": Setup(keys=Keys(api_keys=(NAMED,))),
    "limits": Setup(keys=Keys(api_keys=(LIMITED,))),
    "all": Setup(keys=Keys(api_keys=(LIMITED,)), tracing=TRACED),
}
SETUPS: Final[Mapping[str, Setup]] = {
    **FEATURES,
    "ready": Setup(engines=1),
    "rules": Setup(engines=1, rules=RULES),
    "on request": Setup(engines=1, load=Load.ON_REQUEST),
    "pair": Setup(engines=2),
    "canary": Setup(engines=2, canaries=(CANARY,)),
}
COMPARED: Final = (("all", "off"), ("rules", "ready"), ("on request", "ready"), ("canary", "pair"))


class PyEmptyAwaitable:
    """What Granian's `send` returns for a message that it has taken."""

    def __await__(self) -> Iterator[None]:
        return iter(())


class Wire(asyncio.Transport):
    """A connection to an engine that responds at once; to a stream's request one token in each turn of the loop."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self.tokens = 0
        connection.connection_made(self)

    def write(self, _data: Any) -> None:
        if not self.tokens:
            self._connection.data_received(whole_response())
            return
        head, first, word, end = stream_parts()
        self._connection.data_received(head + first)
        parts = iter((*[word] * self.tokens, end))
        self._connection.loop.call_soon(self._next, parts)

    def _next(self, parts: Iterator[bytes]) -> None:
        if part := next(parts, None):
            self._connection.data_received(part)
            self._connection.loop.call_soon(self._next, parts)

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


class AtOnce(FlushRounds):
    """How many pieces a round sends would depend on the machine."""

    __slots__ = ()

    def join(self, flush: Callable[[], None]) -> None:
        flush()


class Router:
    """An application, called as a server would."""

    def __init__(self, run_dir: Path, setup: Setup) -> None:
        run_dir.mkdir()
        plan = setup.plan(run_dir)
        Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
        self._worker = worker = Worker(plan, setup.keys)
        self._app = App(worker)
        if not setup.journal:
            worker.journal.put = lambda ctx, _api: worker.journal.running.pop(ctx)  # type: ignore[method-assign,assignment,misc] # no record
        if setup.engines:
            plan.paths.state.write_bytes(setup.state(plan).to_json())
            worker.upstreams.poll()
        self._wires = list[Wire]()
        for upstream in worker.upstreams.ready(plan.models[0]):
            upstream.pool._connect = self._connect  # type: ignore[method-assign] # noqa: SLF001 - it has no sockets
        worker.proxy._attempts._rounds = AtOnce()  # noqa: SLF001 - as above
        self._headers = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
        self._headers += [(b"x-api-key", KEY.encode()), (b"traceparent", TRACEPARENT)]
        self._statuses: list[int] = []
        self.body = b""

    async def _connect(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> Connection:
        del timeout_s  # there is nothing to wait for
        connection = Connection(loop, lambda _ended: None)
        self._wires.append(Wire(connection))
        return connection

    def _send(self, message: Message) -> PyEmptyAwaitable:
        if message["type"] == "http.response.start":
            self._statuses.append(message["status"])
        else:
            self.body += message["body"]
        return PyEmptyAwaitable()

    async def ask(self, *, tokens: int = 0) -> None:
        """A whole response, or a stream of so many tokens. RuntimeError unless it is one."""
        await self.asking(tokens)()

    def asking(self, tokens: int = 0) -> "Callable[[], Any]":
        """What is measured, ready to be called."""
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "stream": bool(tokens)}
        message = {"type": "http.request", "body": json.dumps(body).encode()}
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": self._headers,
        }
        scope |= {"query_string": b"", "root_path": "", "client": ("127.0.0.1", 1)}

        async def receive() -> Message:
            return message

        async def ask() -> None:
            for wire in self._wires:
                wire.tokens = tokens
            self._statuses.clear()
            self.body = b""
            await self._app({**scope}, receive, cast("Any", self._send))
            if self._statuses != [200] or self.body.count(WORD.encode()) != (tokens or 1):
                raise RuntimeError(f"the router answered with {self._statuses}: {self.body!r}")

        return ask

    def close(self) -> None:
        self._worker.upstreams.close()
        self._worker.board.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """µs of CPU time, by the application: of a request, and of a token in a stream."""

    request: Mapping[str, float]
    token: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Calls of functions, Python's and C's, by the application: of a request, a streamed one, and a token."""

    request: Mapping[str, int]
    stream: Mapping[str, int]
    token: Mapping[str, float]


def costs(rounds: int = ROUNDS) -> Costs:
    return _with_routers(lambda routers: _measure(routers, rounds))


def calls() -> Calls:
    return _with_routers(_count)


def text(found: Costs, counted: Calls) -> str:
    """A table. Its last lines are what features add."""
    lines = [f"{'':20}{'CPU time, µs':>20}{'calls':>27}", f"{'':20}{'request':>10}{'token':>10}"]
    lines[1] += f"{'request':>10}{'stream':>9}{'token':>8}"
    for name in found.request:
        row = f"{name:20}{found.request[name]:10.1f}{found.token[name]:10.2f}"
        lines.append(f"{row}{counted.request[name]:10}{counted.stream[name]:9}{counted.token[name]:8.1f}")
    for one, less in COMPARED:
        row = f"{f'{one} - {less}':20}" + "".join(f"{by[one] - by[less]:+10.2f}" for by in (found.request, found.token))
        more = [by[one] - by[less] for by in (counted.request, counted.stream)]
        lines.append(f"{row}{more[0]:+10}{more[1]:+9}{counted.token[one] - counted.token[less]:+8.1f}")
    return "\n".join(lines)


def _with_routers(measure: Callable[[Mapping[str, Router]], Coroutine[Any, Any, T]]) -> T:
    async def run(folder: Path) -> T:
        routers = {name: Router(folder / name, setup) for name, setup in SETUPS.items()}
        try:
            return await measure(routers)
        finally:
            for router in routers.values():
                router.close()

    with tempfile.TemporaryDirectory(prefix="berth-cost-") as folder:
        return uvloop.run(run(Path(folder)))


async def _measure(routers: Mapping[str, Router], rounds: int) -> Costs:
    async def part(router: Router, times: int, tokens: int) -> float:
        ask = router.asking(tokens)
        begins = time.thread_time_ns()
        for _ in range(times):
            await ask()
        return (time.thread_time_ns() - begins) / times / 1000

    requests: dict[str, list[float]] = {name: [] for name in routers}
    streams: dict[str, list[float]] = {name: [] for name in routers}
    for number in range(rounds + 1):
        for name, router in [*routers.items()][:: 1 if number % 2 else -1]:
            whole = await part(router, REQUESTS, 0)
            short = await part(router, STREAMS, 1)
            long = await part(router, STREAMS, 1 + TOKENS)
            if number:  # the first ones find more out
                requests[name].append(whole)
                streams[name].append((long - short) / TOKENS)
    return Costs(request=_aligned(requests), token=_aligned(streams))


def _aligned(found: dict[str, list[float]]) -> dict[str, float]:
    """The first one's median, and the others' by the median of what they take more in the same round."""
    (first, base), *others = found.items()
    median = statistics.median(base)
    more = {name: statistics.median(one - was for one, was in zip(times, base, strict=True)) for name, times in others}
    return {first: median, **{name: median + one for name, one in more.items()}}


async def _count(routers: Mapping[str, Router]) -> Calls:
    async def of(router: Router, tokens: int) -> int:
        found = []
        for _ in range(9):
            ask = router.asking(tokens)
            with _counting() as count:
                await ask()
            found.append(count[0])
        return min(found)  # the first one looks more up, and now and then something else is due

    request = {name: await of(router, 0) for name, router in routers.items()}
    stream = {name: await of(router, 1) for name, router in routers.items()}
    longer = {name: await of(router, 1 + TOKENS) for name, router in routers.items()}
    # a timer that is armed, or not, is one call of the whole stream
    token = {name: round((longer[name] - stream[name]) / TOKENS, 1) for name in routers}
    return Calls(request=request, stream=stream, token=token)


@contextmanager
def _counting() -> Iterator[list[int]]:
    """What is in the list counts up with each call meanwhile."""
    count = [0]

    def called(_frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_call"):
            count[0] += 1

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        yield count
    finally:
        sys.setprofile(before)

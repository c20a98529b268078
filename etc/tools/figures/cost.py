"""What limits, usage, traces, the journal and metrics cost a request and a token, and a canary, and rules:
`make figures FIGURES=--cost`.

Six applications of the router are called in turn in one process, in front of the same scripted engine. `bare` writes
neither journal nor metrics; `usual` has no keys and traces; with `all` each request has a key with every limit, and a
sampled trace. `pair` is as `usual`, with two engines, of which `canary` gives the second one 25 % of the conversations.
`rules` has 20 rules of BERTH_ROUTES, of which none holds.

What counts is the CPU time of this thread, without a server or a client: the median over rounds of what small parts of
two applications differ by. It is no test, and needs a quiet machine: where others take turns with it, caches are cold,
and all of it takes several times as long. The budgets of calls are the tests.
"""

import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import uvloop
from starlette.types import Message

from berth.plan import ApiKey, Keys, Plan, RoutingRule, Tracing
from berth.plan.keys import digest
from berth.router.app import App
from berth.router.telemetry.metrics import layout
from berth.router.telemetry.shared_counters import Scoreboard
from berth.router.worker import Worker
from berth.state import Canary, ReplicaState, ReplicaStatus, State
from etc.tools.figures.engine import Engine
from tests.fakes.ports import free_port
from tests.fakes.router import make_plan, replica

ROUNDS: Final = 150
REQUESTS: Final = 40  # of one application in a round
STREAMS: Final = 4
TOKENS: Final = 50  # of a stream
KEY: Final = "key-of-all-features-0123456789"
LIMITED: Final = ApiKey(
    name="all",
    slot=1,
    digests=(digest(KEY),),
    requests_per_minute=10**8,
    tokens_per_minute=10**10,
    concurrency=100,
    tokens_per_day=10**12,
    tokens_per_month=10**13,
)
CANARY: Final = Canary(model="chat", replica="chat-b", share=0.25, salt="1")
_KINDS: Final = (  # none of them holds
    RoutingRule(name="", path="/batch", priority="low"),
    RoutingRule(name="", has=("tools",), engine="chat-a"),
    RoutingRule(name="", keys=("nightly",), priority="low"),
    RoutingRule(name="", headers={"user-agent": "claude-cli/*"}, engine="chat-a"),
    RoutingRule(name="", least_tokens=16000, engine="chat-a"),
)
RULES: Final = tuple(replace(_KINDS[number % len(_KINDS)], name=f"rule {number + 1}") for number in range(20))
TRACEPARENT: Final = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Router:
    """An application, called as a server would."""

    def __init__(self, plan: Plan, keys: Keys, *, counts: bool = True) -> None:
        Path(plan.paths.run_dir).mkdir()
        Scoreboard.create(plan.paths.scoreboard, layout(plan), rows=1)
        self._worker = worker = Worker(plan, keys)
        self._app = App(worker)
        if not counts:
            worker.journal.put = _nothing  # type: ignore[method-assign,assignment] # it counts nothing
            worker.meter.observe = _nothing  # type: ignore[method-assign,assignment] # it counts nothing
        self._headers = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]
        self._headers += [(b"x-api-key", KEY.encode()), (b"traceparent", TRACEPARENT)]

    async def ask(self, engine: Engine, *, tokens: int = 0) -> None:
        """A whole response, or a stream of so many tokens. RuntimeError unless it is one."""
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "stream": bool(tokens)}
        received = iter([{"type": "http.request", "body": json.dumps(body).encode()}])
        statuses: list[int] = []

        async def receive() -> Message:
            return next(received)

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        for _ in range(tokens):
            engine.next_token()
        if tokens:
            engine.last_token()
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": self._headers}
        await self._app({**scope, "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1)}, receive, send)
        if statuses != [200]:
            raise RuntimeError(f"the router answered with {statuses}")

    def take(self, plan: Plan, *canaries: Canary) -> None:
        """A state of control, in which all engines are ready."""
        ready = tuple(
            ReplicaState(name=one.name, status=ReplicaStatus.READY, since=0.0, reason="") for one in plan.replicas
        )
        state = State(sequence=1, published_at=time.time(), control_pid=1, replicas=ready, canaries=canaries)
        plan.paths.state.write_bytes(state.to_json())
        self._worker.upstreams.poll()

    def close(self) -> None:
        self._worker.upstreams.close()
        self._worker.board.close()


def _nothing(*_: object) -> float:
    return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """µs of CPU time, by the application: of a request, and of a token in a stream."""

    request: dict[str, float]
    token: dict[str, float]


def costs(rounds: int = ROUNDS) -> Costs:
    with tempfile.TemporaryDirectory(prefix="berth-cost-") as folder:
        return uvloop.run(_measure(Path(folder), rounds))


def text(found: Costs) -> str:
    lines = ["µs of CPU time     request    token"]
    lines += [f"{name:16} {found.request[name]:9.1f} {found.token[name]:8.2f}" for name in found.request]
    for name, less in (("usual", "bare"), ("all", "usual"), ("canary", "pair"), ("rules", "usual")):
        request, token = found.request[name] - found.request[less], found.token[name] - found.token[less]
        lines.append(f"{f'{name} - {less}':16} {request:+9.1f} {token:+8.2f}")
    return "\n".join(lines)


def features(folder: Path, port: int) -> dict[str, Router]:
    """Applications with two engines, without and with a canary, and one with rules; the engines are at this port."""
    url = f"http://127.0.0.1:{port}"
    pair = make_plan(str(folder / "pair"), [replica("chat-a", url), replica("chat-b", url)])
    canary = replace(pair, paths=replace(pair.paths, run_dir=str(folder / "canary")))
    rules = replace(make_plan(str(folder / "rules"), [replica("chat-a", url)]), rules=RULES)
    found = {"pair": Router(pair, Keys()), "canary": Router(canary, Keys()), "rules": Router(rules, Keys())}
    found["pair"].take(pair)
    found["canary"].take(canary, CANARY)
    return found


async def _measure(folder: Path, rounds: int) -> Costs:
    engine, port = Engine(), free_port()
    plan = make_plan(str(folder / "bare"), [replica("chat-a", f"http://127.0.0.1:{port}")])
    paths = [replace(plan.paths, run_dir=str(folder / name)) for name in ("usual", "all")]
    usual, everything = (replace(plan, paths=one) for one in paths)
    everything = replace(everything, tracing=Tracing(endpoint="http://127.0.0.1:9/v1/traces"), open_access=False)
    routers = {
        "bare": Router(plan, Keys(), counts=False),
        "usual": Router(usual, Keys()),
        "all": Router(everything, Keys(api_keys=(LIMITED,))),
        **features(folder, port),
    }

    async def part(router: Router, times: int, tokens: int) -> float:
        begins = time.thread_time()
        for _ in range(times):
            await router.ask(engine, tokens=tokens)
        return (time.thread_time() - begins) * 1e6 / times

    requests: dict[str, list[float]] = {name: [] for name in routers}
    streams: dict[str, list[float]] = {name: [] for name in routers}
    async with engine.listening(port):
        for number in range(rounds + 2):
            for name, router in [*routers.items()][:: 1 if number % 2 else -1]:
                whole = await part(router, REQUESTS, 0)
                short = await part(router, STREAMS, 1)
                long = await part(router, STREAMS, 1 + TOKENS)
                if number > 1:  # the first ones find more out
                    requests[name].append(whole)
                    streams[name].append((long - short) / TOKENS)
        for router in routers.values():
            router.close()
        await asyncio.sleep(0)  # transports close in the next round of the loop
    return Costs(request=_aligned(requests), token=_aligned(streams))


def _aligned(found: dict[str, list[float]]) -> dict[str, float]:
    """The first one's median, and the others' by the median of what they take more in the same round."""
    (first, base), *others = found.items()
    median = statistics.median(base)
    more = {name: statistics.median(one - was for one, was in zip(times, base, strict=True)) for name, times in others}
    return {first: median, **{name: median + one for name, one in more.items()}}

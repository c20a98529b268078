"""Limits over four router workers, against clients that always want more than they may have.

Four clients: one with a limit of requests, one with a limit of tokens, which streams, and two without limits, of which
one floods an engine. What the first two get is compared with the ideal: what the bucket has at the beginning, and then
exactly the rate. A request is counted when its first byte comes, with the tokens that its usage names.
"""

import asyncio
import random
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from berth.ipc import key_counters
from berth.ipc.key_counters import KEY_WIDTH, REQUESTS_LOST, REQUESTS_USED, TOKENS_LOST, TOKENS_USED, Shape
from berth.plan import read_keys
from berth.router.balancing.limits import LONGEST_WAIT_S
from tests.e2e.appliance import Appliance, sim_models
from tests.fakes.plain_http import NO_AUTHORITIES

WORKERS = 4
PER_MINUTE = {"requests": 300, "tokens": 15_000}
BURST_S = 5.0
SETTLED_S = 3 * LONGEST_WAIT_S  # after that as many wait as can
MINUTE_S = 60.0
PLACES = 8  # of the engine that is flooded
SLOW = "vllm --ttft 20ms --itl 10ms"


def key_of(name: str) -> str:
    return f"key-of-{name}-0123456789"


def limit_of(kind: str, per_minute: int) -> str:
    return f"{kind}_per_minute: {per_minute}, burst: {BURST_S:g}s"


@contextmanager
def appliance() -> Iterator[Appliance]:
    keys = [f"{kind}: {{key: {key_of(kind)}, {limit_of(kind, rate)}}}" for kind, rate in PER_MINUTE.items()]
    keys += [f"{name}: {{key: {key_of(name)}}}" for name in ("flood", "quiet")]
    models = f"{sim_models('m', 'vllm --itl 0')}\n{sim_models('slow', SLOW, concurrency=str(PLACES))}"
    with Appliance(models, BERTH_WORKERS=str(WORKERS), BERTH_API_KEYS="\n".join(keys)) as berth:
        berth.http.headers["authorization"] = f"Bearer {key_of('quiet')}"
        yield berth.wait_ready()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Moments are of time.monotonic()."""

    asked: float
    first: float  # its first byte
    status: int
    prompt: int = 0
    completion: int = 0


@dataclass
class Client:
    """Asks again and again, as many requests at a time as it is told to."""

    berth: Appliance
    name: str
    model: str = "m"
    stream: bool = False
    most_tokens: int = 40
    answers: list[Answer] = field(default_factory=list)
    dice: random.Random = field(default_factory=lambda: random.Random(7))

    async def run(self, at_a_time: int, until: asyncio.Event) -> None:
        headers = {"authorization": f"Bearer {key_of(self.name)}"}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)  # a new one may lead to any worker
        async with (
            httpx.AsyncClient(
                base_url=self.berth.url,
                headers=headers,
                timeout=120,
                limits=limits,
                verify=NO_AUTHORITIES,
                trust_env=False,
            ) as http,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(at_a_time):
                tasks.create_task(self._ask_again(http, until))

    async def _ask_again(self, http: httpx.AsyncClient, until: asyncio.Event) -> None:
        while not until.is_set():
            answer = await self._ask(http)
            self.answers.append(answer)
            if answer.status == 429:
                await asyncio.sleep(0.5)

    async def _ask(self, http: httpx.AsyncClient) -> Answer:
        words = " ".join(["word"] * self.dice.randint(1, 60))
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": words}]}
        body["max_tokens"] = self.dice.randint(1, self.most_tokens)
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        asked = time.monotonic()
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            first, usage = time.monotonic(), None
            if answer.status_code != 200:
                await answer.aread()
            elif self.stream:
                async for line in answer.aiter_lines():
                    if '"usage":{' in line:
                        usage = httpx.Response(200, content=line.removeprefix("data: ")).json()["usage"]
            else:
                await answer.aread()
                usage = answer.json()["usage"]
        usage = usage or {"prompt_tokens": 0, "completion_tokens": 0}
        return Answer(
            asked=asked,
            first=first,
            status=answer.status_code,
            prompt=usage["prompt_tokens"],
            completion=usage["completion_tokens"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What a client with a limit got: a moment and an amount for each request, in order."""

    kind: str
    moments: Sequence[float]
    amounts: Sequence[float]

    @classmethod
    def of(cls, kind: str, answers: Sequence[Answer]) -> "Granted":
        got = sorted((one.first, one.prompt + one.completion) for one in answers if one.status == 200)
        amounts = [1.0 if kind == "requests" else float(tokens) for _, tokens in got]
        return cls(kind=kind, moments=[moment for moment, _ in got], amounts=amounts)

    def between(self, begins: float, ends: float) -> float:
        return sum(self.amounts[bisect_left(self.moments, begins) : bisect_right(self.moments, ends)])

    def ratio(self, begins: float, ends: float) -> float:
        """To the ideal, while more is wanted all the time."""
        return self.between(begins, ends) / (PER_MINUTE[self.kind] * (ends - begins) / MINUTE_S)

    def worst_minute(self) -> float:
        """To the limit of a minute."""
        most = max((self.between(begins, begins + MINUTE_S) for begins in self.moments), default=0.0)
        return most / PER_MINUTE[self.kind]


async def measure_limits(berth: Appliance, seconds: float, at_a_time: int) -> dict[str, Granted]:
    clients = [Client(berth, "requests"), Client(berth, "tokens", stream=True)]
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(client.run(at_a_time, enough))
        await asyncio.sleep(seconds)
        enough.set()
    return {client.name: Granted.of(client.name, client.answers) for client in clients}


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Until the first byte of the same request: alone, and beside a client that floods the engine."""

    alone: Sequence[float]
    flooded: Sequence[float]
    flood: Sequence[float]  # of the flooding client


async def measure_waits(berth: Appliance, seconds: float, flood: int) -> Waits:
    alone, beside = (Client(berth, "quiet", "slow", stream=True, most_tokens=1) for _ in range(2))
    flooding = Client(berth, "flood", "slow", stream=True, most_tokens=100)
    enough = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(alone.run(1, enough))
        await asyncio.sleep(min(seconds, 5))
        enough.set()
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(flooding.run(flood, enough))
        await asyncio.sleep(min(seconds / 4, 5))
        tasks.create_task(beside.run(1, enough))
        await asyncio.sleep(seconds)
        enough.set()
    alone_s, beside_s, flood_s = ([one.first - one.asked for one in who.answers] for who in (alone, beside, flooding))
    return Waits(alone=alone_s, flooded=beside_s, flood=flood_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Of a client's limit, as the workers count it: in seconds of the rate."""

    taken: Sequence[float]  # by each worker that took anything
    lost: float  # what has overflowed while it was full
    level: float  # what is left at this moment; below 0: what requests wait for

    @classmethod
    def of(cls, berth: Appliance, kind: str) -> "Bucket":
        plan = berth.plan()
        (key,) = [key for key in read_keys(plan.paths.run_dir).api_keys if key.name == kind]
        used, lost = (REQUESTS_USED, REQUESTS_LOST) if kind == "requests" else (TOKENS_USED, TOKENS_LOST)
        rows, at = key_counters.rows(plan.paths.key_counters, Shape.of(plan)), key.slot * KEY_WIDTH
        now, taken, most = time.monotonic(), [row[at + used] for row in rows], max(row[at + lost] for row in rows)
        return cls(taken=[*filter(None, taken)], lost=most, level=key.burst_s + now - sum(taken) - most)

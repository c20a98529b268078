"""What Berth has written down of its clients, beside what the official SDKs told them, while its programs are killed.

Requests that a killed router worker had are lost, and count for nobody. Streams of a killed engine are continued by its
peer: the client is told the tokens of both. One that breaks all the same counts what was sent, of which the client
knows only the text: so none may.
"""

import asyncio
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from itertools import count, cycle
from pathlib import Path

import anthropic
import httpx
import httpx2
import ollama
import openai
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from berth.ipc import traffic
from berth.records import usage
from berth.state import ReplicaStatus
from tests.accounts.limits import key_of
from tests.e2e.appliance import ROOT, Appliance, sim_models

AT_A_TIME = 8
DIALECTS = ("vllm", "sglang")
LONG = 400  # tokens
KNOWN_S = 3.0  # after which every worker knows a new State
KILLS = ("engine", "worker", "control")
Sums = dict[str, tuple[int, int]]  # prompt and response tokens, by the client's name
_LOST = (openai.APIConnectionError, anthropic.APIConnectionError, ConnectionError)


def pair(model: str) -> str:
    """Two engines of the same weights."""
    return sim_models(model, *(f"{dialect} --ttft 5ms --itl 5ms" for dialect in DIALECTS), standby="hot")


class Sdks:
    """The official ones of one client. Each way to ask returns the prompt and response tokens that it was told."""

    def __init__(self, url: str, key: str, model: str) -> None:
        self._model = model
        self._openai = AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)
        self._anthropic = AsyncAnthropic(base_url=url, api_key=key, max_retries=0, timeout=60)
        self._ollama = ollama.AsyncClient(host=url, headers={"authorization": f"Bearer {key}"}, timeout=60)
        self._ways = (self._chat, self._chat_stream, self._responses, self._message, self._messages, self._generate)

    async def close(self) -> None:
        await self._openai.close()
        await self._anthropic.close()
        await self._ollama.close()  # type: ignore[no-untyped-call] # of the SDK

    async def ask(self, number: int) -> tuple[int, int]:
        text, most = f"{number} " * (1 + number % 7), 16 + number % 40
        return await self._ways[number % len(self._ways)](text, most)

    async def ask_for_long(self, begun: Callable[[], None]) -> tuple[int, int]:
        """`begun` is called with the first part of the response, seconds before its end, or when there is none."""
        try:
            chunks = await self._openai.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": "Hello"}],
                max_tokens=LONG,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )
            await anext(chunks)
        finally:
            begun()
        (told,) = [chunk.usage async for chunk in chunks if chunk.usage]
        return told.prompt_tokens, told.completion_tokens

    async def _chat(self, text: str, most: int) -> tuple[int, int]:
        create = self._openai.chat.completions.create
        made = await create(model=self._model, messages=[{"role": "user", "content": text}], max_tokens=most)
        assert made.usage
        return made.usage.prompt_tokens, made.usage.completion_tokens

    async def _chat_stream(self, text: str, most: int) -> tuple[int, int]:
        chunks = await self._openai.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": text}],
            max_tokens=most,
            stream=True,
            stream_options={"include_usage": True},
        )
        (told,) = [chunk.usage async for chunk in chunks if chunk.usage]
        return told.prompt_tokens, told.completion_tokens

    async def _responses(self, text: str, most: int) -> tuple[int, int]:
        create = self._openai.responses.create
        events = await create(model=self._model, input=text, max_output_tokens=most, stream=True)
        last = [event async for event in events][-1]
        assert last.type in ("response.completed", "response.incomplete")  # the latter: it has reached its most tokens
        assert last.response.usage
        return last.response.usage.input_tokens, last.response.usage.output_tokens

    async def _message(self, text: str, most: int) -> tuple[int, int]:
        create = self._anthropic.messages.create
        made = await create(model=self._model, messages=[{"role": "user", "content": text}], max_tokens=most)
        return made.usage.input_tokens, made.usage.output_tokens

    async def _messages(self, text: str, most: int) -> tuple[int, int]:
        stream = self._anthropic.messages.stream
        async with stream(model=self._model, messages=[{"role": "user", "content": text}], max_tokens=most) as messages:
            made = await messages.get_final_message()
        return made.usage.input_tokens, made.usage.output_tokens

    async def _generate(self, text: str, most: int) -> tuple[int, int]:
        made = await self._ollama.generate(self._model, text, stream=True, options={"num_predict": most})
        last = [part async for part in made][-1]
        return last.prompt_eval_count or 0, last.eval_count or 0


class Told:
    """What the SDKs told of all requests."""

    def __init__(self, berth: Appliance, model: str, clients: Sequence[str]) -> None:
        self._berth = berth
        self._sdks = {name: Sdks(berth.url, key_of(name), model) for name in clients}
        self._free = asyncio.Event()  # requests may begin
        self._running = 0
        self._tokens: dict[str, Counter[str]] = defaultdict(Counter)
        self.results: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()

    async def run(self, requests: int, kills: Sequence[str] = KILLS) -> None:
        """At least so many. The kills are spread over them; a request that comes meanwhile is one more."""
        self._free.set()
        async with asyncio.TaskGroup() as tasks:
            killer = tasks.create_task(self._kill(kills, requests // (len(kills) + 1)))
            for place in range(AT_A_TIME):
                tasks.create_task(self._ask_again(place, requests, killer))
        for sdks in self._sdks.values():
            await sdks.close()

    def tokens(self) -> Sums:
        return {name: (told["prompt"], told["completion"]) for name, told in self._tokens.items()}

    async def _ask_again(self, place: int, requests: int, killer: "asyncio.Task[None]") -> None:
        who = [*self._sdks][place % len(self._sdks)]
        for number in count(place, AT_A_TIME):
            if killer.done() and self.results.total() >= requests:
                return
            await self._free.wait()
            await self.told(who, self._sdks[who].ask(number))

    async def told(self, who: str, asked: Awaitable[tuple[int, int]]) -> None:
        self._running += 1
        try:
            prompt, completion = await asked
        except (*_LOST, httpx.TransportError, httpx2.TransportError):
            self.results["lost"] += 1
        except (openai.APIError, anthropic.APIError, ollama.ResponseError) as error:
            self.results[f"failed: {error}"] += 1
        else:
            self.results["whole"] += 1
            self._tokens[who].update(prompt=prompt, completion=completion)
        finally:
            self._running -= 1

    async def _kill(self, kills: Sequence[str], every: int) -> None:
        for number, what in enumerate(kills, 1):
            await self._until(lambda due=number * every: self.results.total() >= due)  # type: ignore[misc] # its type
            if what == "engine":
                await self._until(self._all_ready)
                self._berth.find("sim", "--dialect", DIALECTS[self.killed[what] % 2]).kill()
            elif what == "control":
                self._berth.find("berth", "control").kill()
            else:
                await self._kill_worker()
            self.killed[what] += 1

    async def _kill_worker(self) -> None:
        """While all of its requests are in their middle. At the end of one, either side may know more."""
        self._free.clear()
        await self._until(lambda: not self._running)
        begun = [asyncio.Event() for _ in range(AT_A_TIME)]
        async with asyncio.TaskGroup() as tasks:
            for event, who in zip(begun, cycle(self._sdks), strict=False):
                tasks.create_task(self.told(who, self._sdks[who].ask_for_long(event.set)))
            for event in begun:
                await event.wait()
            os.kill(next(iter(traffic.workers(self._berth.paths.heartbeats).values())), signal.SIGKILL)
        self._free.set()

    def _all_ready(self) -> bool:
        """And every worker knows."""
        state = self._berth.state()
        ready = [one for one in state.replicas if one.status is ReplicaStatus.READY]
        return len(ready) == len(state.replicas) and all(time.time() - one.since > KNOWN_S for one in ready)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.05)


def written(berth: Appliance, clients: Sequence[str]) -> dict[str, Sums]:
    """What each way to read usage says of it."""
    rows = json.loads(_command(berth, "usage", "--by", "key", "--json"))
    table = csv.DictReader(_command(berth, "usage", "--by", "key", "--csv").splitlines())
    metrics = berth.get("/metrics").text
    return {
        "JSON": {row["key"]: (row["prompt"], row["completion"]) for row in rows},
        "CSV": {row["key"]: (int(row["prompt"]), int(row["completion"])) for row in table},
        "metrics": {name: (_metric(metrics, name, "prompt"), _metric(metrics, name, "completion")) for name in clients},
    }


def in_files(berth: Appliance) -> Sums:
    """Of an appliance that has stopped."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for file in Path(berth.paths.data_dir, "berth", "usage").glob("*.jsonl"):
        for line in usage.lines(file):
            sums[line.key].update(prompt=line.prompt, completion=line.out)
    return {name: (told["prompt"], told["completion"]) for name, told in sums.items()}


def _metric(text: str, name: str, kind: str) -> int:
    found = re.findall(rf'^berth_key_tokens_total\{{key="{name}",kind="{kind}",.*\}} (\S+)$', text, re.MULTILINE)
    return int(sum(map(float, found)))


def _command(berth: Appliance, *words: str) -> str:
    command = [sys.executable, "-m", "berth", *words]
    done = subprocess.run(command, env=berth.environ, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout

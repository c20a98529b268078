"""The load generator: `python -m etc.tools.rivals.load --url URL ...`.

It warms up, prints `ready`, waits for a line on standard input, loads, and prints a `Result` as one line of JSON.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from etc.tools.rivals.apis import APIS, CHAT
from etc.tools.rivals.client import Client, request_to
from etc.tools.rivals.failure import BenchError
from etc.tools.rivals.frames import Pace
from etc.tools.rivals.tally import Result, Tally

_GOLDEN = 0.6180339887498949  # its multiples fill the time evenly, whatever period is looked for in them
_AT_ONCE = 100  # connections that are being opened
_WARM_UP = Pace(tokens=2, first_ms=0, next_ms=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of a router. Without a pace: whole answers, on each connection one after the other until
    `seconds` are over. With one: that many `streams` on each connection, which are cut when `seconds` are over.
    """

    connections: int
    seconds: float
    pace: Pace | None = None
    streams: int = 1
    stagger_s: float = 1.0  # within which the connections begin to stream
    warm: bool = True  # False: the connections are opened by the load itself
    api: str = CHAT.name  # a name in APIS

    def arguments(self) -> list[str]:
        """For the command line of the load generator."""
        words: list[object] = ["--api", self.api, "--connections", self.connections]
        words += ["--seconds", self.seconds, "--stagger-s", self.stagger_s]
        if self.pace is not None:
            words += ["--streams", self.streams, "--tokens", self.pace.tokens]
            words += ["--first-ms", self.pace.first_ms, "--next-ms", self.pace.next_ms]
        if not self.warm:
            words.append("--cold")
        return [str(word) for word in words]

    @classmethod
    def parse(cls, arguments: argparse.Namespace) -> "Load":
        pace = Pace(tokens=arguments.tokens, first_ms=arguments.first_ms, next_ms=arguments.next_ms)
        return cls(
            connections=arguments.connections,
            seconds=arguments.seconds,
            pace=pace if pace.tokens else None,
            streams=arguments.streams,
            stagger_s=arguments.stagger_s,
            warm=not arguments.cold,
            api=arguments.api,
        )


class Generator:
    """One load on its way to one URL."""

    def __init__(self, url: str, key: str, load: Load) -> None:
        self._load = load
        api = APIS[load.api]
        self._warm_up = request_to(url, pace=_WARM_UP if load.pace else None, key=key, api=api)
        self._request = request_to(url, pace=load.pace, key=key, api=api)
        self._tokens = load.pace.tokens if load.pace else 0
        self._clients = [Client(url, api) for _ in range(load.connections)]

    async def warm_up(self) -> Tally:
        """Every connection is open, and has carried an answer."""
        tally, door = Tally(), asyncio.Semaphore(_AT_ONCE)
        tokens = _WARM_UP.tokens if self._load.pace else 0

        async def once(client: Client) -> None:
            async with door:
                await client.ask(self._warm_up, tally, tokens=tokens)

        async with asyncio.TaskGroup() as group:
            for client in self._clients:
                group.create_task(once(client))
        return tally

    async def run(self) -> Result:
        tally = Tally()
        cpu_began, began = time.process_time(), time.perf_counter()
        work = self._stream if self._load.pace else self._ask
        try:
            async with asyncio.timeout(self._load.seconds if self._load.pace else None), asyncio.TaskGroup() as group:
                for number, client in enumerate(self._clients):
                    group.create_task(work(client, number, tally))
        except TimeoutError:
            tally.unfinished = sum(client.waiting for client in self._clients)
        return tally.result(wall_s=time.perf_counter() - began, cpu_s=time.process_time() - cpu_began)

    async def _ask(self, client: Client, _number: int, tally: Tally) -> None:
        deadline = time.perf_counter() + self._load.seconds
        while time.perf_counter() < deadline:
            await client.ask(self._request, tally, tokens=0)

    async def _stream(self, client: Client, number: int, tally: Tally) -> None:
        await asyncio.sleep(number * _GOLDEN % 1 * self._load.stagger_s)
        for _ in range(self._load.streams):
            await client.ask(self._request, tally, tokens=self._tokens)


async def generate(url: str, key: str, load: Load) -> Result:
    """BenchError where the warm-up fails."""
    generator = Generator(url, key, load)
    if load.warm and (failures := (await generator.warm_up()).failures):
        raise BenchError(f"{url} does not answer as it should: {dict(failures)}")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    return await generator.run()


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--api", choices=APIS, default=CHAT.name)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--stagger-s", type=float, default=1)
    parser.add_argument("--cold", action="store_true", help="no warm-up")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=0, help="of each stream; 0: whole answers")
    parser.add_argument("--first-ms", type=int, default=0)
    parser.add_argument("--next-ms", type=int, default=0)
    return parser.parse_args(words)


def main() -> None:
    arguments = parse()
    try:
        result = uvloop.run(generate(arguments.url, arguments.key, Load.parse(arguments)))
    except BenchError as exc:
        sys.exit(str(exc))
    sys.stdout.write(f"{result.to_json()}\n")


if __name__ == "__main__":
    main()

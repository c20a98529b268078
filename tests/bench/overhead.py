"""What Berth costs: `python -m tests.bench.overhead [--seconds N]`, or `make bench`.

One simulated engine, asked twice with the same load: directly, and through Berth. Two loads: whole answers as fast as
64 connections can, and 100 streams of one token each 20 ms. The figure that stays comparable on a busy machine is CPU
time (user and system) of all of Berth's processes per request and per token; the engine's own stands beside it.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil

from tests.e2e.appliance import Appliance, free_port, is_open, wait_for

CONNECTIONS = 64
STREAMS = 100
TOKENS = 200
MODEL = "bench"


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one load came to."""

    requests: int = 0
    tokens: int = 0
    first_byte_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    tally: Tally
    wall_s: float
    berth_cpu_s: float  # 0 where Berth was not asked
    engine_cpu_s: float


class Client:
    """One keep-alive connection that understands just enough HTTP."""

    def __init__(self, url: str, *, stream: bool) -> None:
        self._host, self._port = urlsplit(url).hostname or "", urlsplit(url).port or 80
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
        body |= {"max_tokens": TOKENS} if stream else {"max_tokens": 8}
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
        self._request = f"{head}content-length: {len(data)}\r\n\r\n".encode() + data

    async def ask_until(self, deadline: float, tally: Tally) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        while time.monotonic() < deadline:
            began = time.monotonic()
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"not a 200: {head!r}")
            tokens = await _body(reader, head.lower(), began, tally)
            tally.tokens += tokens  # not in one statement: it would forget what others added meanwhile
            tally.requests += 1
            tally.whole_s.append(time.monotonic() - began)
        writer.close()
        await writer.wait_closed()


async def _body(reader: asyncio.StreamReader, head: bytes, began: float, tally: Tally) -> int:
    """Reads it to its end; the number of SSE frames with JSON in it."""
    if b"transfer-encoding: chunked" not in head:
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        tally.first_byte_s.append(time.monotonic() - began)
        return 0
    frames = 0
    while size := int(await reader.readline(), 16):
        chunk = await reader.readexactly(size + 2)
        if not frames:
            tally.first_byte_s.append(time.monotonic() - began)
        frames += chunk.count(b"data: {")
    await reader.readexactly(2)
    return frames


async def load(url: str, *, clients: int, seconds: float, stream: bool) -> Tally:
    tally = Tally()
    deadline = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(Client(url, stream=stream).ask_until(deadline, tally))
    return tally


def measure(
    url: str, engine: psutil.Process, berth: Sequence[psutil.Process], *, stream: bool, seconds: float
) -> Measurement:
    clients = STREAMS if stream else CONNECTIONS
    asyncio.run(load(url, clients=clients, seconds=0.01, stream=stream))  # everybody warm
    before, engine_before, began = _cpu_s(berth), _cpu_s([engine]), time.monotonic()
    tally = asyncio.run(load(url, clients=clients, seconds=seconds, stream=stream))
    return Measurement(
        tally=tally,
        wall_s=time.monotonic() - began,
        berth_cpu_s=_cpu_s(berth) - before,
        engine_cpu_s=_cpu_s([engine]) - engine_before,
    )


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


@contextmanager
def engine(pace: str) -> Iterator[tuple[str, psutil.Process]]:
    """Its URL and process; `pace` is the time to the first token, and to each further one."""
    port = free_port()
    command = [sys.executable, "-m", "berth", "sim", "--port", str(port), "--served-model-name", MODEL]
    command += ["--ttft", pace, "--itl", pace, "--text", "word " * TOKENS]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: is_open(port), 20, lambda: "the simulated engine does not start")
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.kill()


def table(direct: Measurement, through: Measurement, *, stream: bool) -> str:
    unit = "token" if stream else "request"
    lines = [f"{'':>16} {unit + 's/s':>12} {'first byte p50':>15} {'p99':>8} {'CPU Berth':>10} {'CPU engine':>11}"]
    for name, one in (("engine alone", direct), ("through Berth", through)):
        count = one.tally.tokens if stream else one.tally.requests
        first = sorted(one.tally.first_byte_s)
        lines.append(
            f"{name:>16} {count / one.wall_s:>12.0f} {1e3 * statistics.median(first):>12.1f} ms"
            f" {1e3 * first[int(0.99 * (len(first) - 1))]:>5.1f} ms"
            f" {1e6 * one.berth_cpu_s / count:>7.0f} µs {1e6 * one.engine_cpu_s / count:>8.0f} µs"
        )
    cost = through.berth_cpu_s / (through.tally.tokens if stream else through.tally.requests)
    own = through.engine_cpu_s / (through.tally.tokens if stream else through.tally.requests)
    lines.append(f"Berth per {unit}: {1e6 * cost:.0f} µs of CPU, {cost / own:.2f} times the simulated engine's own")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each of the four loads (default %(default)s)")
    seconds = parser.parse_args().seconds
    for stream in (False, True):
        clients = f"{STREAMS} streams of {TOKENS} tokens" if stream else f"{CONNECTIONS} connections, whole answers"
        with engine("20ms" if stream else "0ms") as (url, process):
            direct = measure(url, process, [], stream=stream, seconds=seconds)
            with Appliance(f"{MODEL}={url}/v1", BERTH_LOG_LEVEL="warning") as berth:
                berth.wait_ready()
                through = measure(berth.url, process, berth.processes(), stream=stream, seconds=seconds)
        sys.stdout.write(f"\n{clients}\n{table(direct, through, stream=stream)}\n")


if __name__ == "__main__":
    main()

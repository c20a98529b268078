"""Streams that are preempted twice, while control is killed: `python -m tests.chaos.preemptions --streams 100`, or
`make preemptions`. One GPU holds one of three models; a request for another one takes the room of the first in the
middle of its streams, of all client APIs. Exit code 1: a text is not the one that an uninterrupted stream has.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import psutil

from tests.chaos.swap_soak import appliance, text_of
from tests.e2e.appliance import Appliance, end
from tests.fakes.streaming_clients import APIS, all_of

AT_ONCE: Final = 20
ENGINE: Final = "--load-time 300ms"
SLOW, FAST = "--itl 500ms", "--itl 2ms"  # so that no text ends before it is preempted, and all end soon afterwards
FIELDS: Final = {"drain_timeout": "400ms", "max_wait": "100ms", "min_residency": "100ms"}
PREEMPTIONS: Final = 2  # of each stream
PATIENCE_S: Final = 120.0


@dataclass(slots=True, kw_only=True)
class Seen:
    streams: int = 0
    preempted: Counter[str] = field(default_factory=Counter)  # by outcome
    wrong: list[str] = field(default_factory=list)


def preempted(berth: Appliance) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in berth.get("/metrics").text.splitlines():
        if line.startswith("berth_requests_preempted_total{") and 'model="red"' in line:
            labels, _, number = line.rpartition(" ")
            found[labels.partition('outcome="')[2].partition('"')[0]] += int(float(number))
    return found


def status(berth: Appliance) -> str:
    return str(berth.replicas()["red-vllm"]["status"])


def take_the_room(berth: Appliance, *, kills: bool = False) -> None:
    """Of `red`, for one answer of another model. Control is killed while red drains."""
    body = {"model": "blue", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(berth.http.post, "/v1/chat/completions", json=body, timeout=PATIENCE_S)
        berth.wait(lambda: status(berth) != "ready", PATIENCE_S)
        if kills:
            end(psutil.Process(berth.state().control_pid))
        assert answer.result().status_code == 200, answer.result().text


def play(berth: Appliance, more: Path, streams: int, seen: Seen, times: int = PREEMPTIONS) -> None:
    """So many at the same time, each preempted so often. `more`: arguments for the next start of an engine."""
    more.write_text(SLOW)
    if status(berth) == "ready":
        take_the_room(berth)
    berth.wait(lambda: status(berth) == "unloaded", PATIENCE_S)
    before, names = preempted(berth), list(islice(cycle(APIS), streams))

    def swaps() -> None:
        for number in range(times):
            berth.wait(lambda: status(berth) == "ready", PATIENCE_S)
            more.write_text(SLOW if number < times - 1 else FAST)
            take_the_room(berth, kills=number == 0)

    texts = asyncio.run(all_of([APIS[name](berth.url, "red") for name in names], swaps))
    expected = text_of("red")
    seen.wrong += [f"{name}: {text!r}" for name, text in zip(names, texts, strict=True) if text != expected]
    seen.streams += streams
    berth.wait(lambda: 'berth_requests_in_flight{model="red"} 0.0' in berth.get("/metrics").text, PATIENCE_S)
    seen.preempted += preempted(berth) - before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100, help="all in all (default %(default)s)")
    given = parser.parse_args()
    seen = Seen()
    with (
        tempfile.TemporaryDirectory(prefix="berth-preemptions-") as folder,
        appliance(Path(folder), engine=ENGINE, fields=FIELDS) as berth,
    ):
        while seen.streams < given.streams:
            play(berth, Path(folder, "more"), min(AT_ONCE, given.streams - seen.streams), seen)
            sys.stderr.write(f"preemptions: {seen.streams} streams, {dict(seen.preempted)}\n")
    good = seen.streams - len(seen.wrong)
    sys.stdout.write(f"{good} of {seen.streams} streams had the text of an uninterrupted one; {dict(seen.preempted)}\n")
    sys.stdout.writelines(f"{one}\n" for one in seen.wrong)
    return 1 if seen.wrong or not seen.preempted["continued"] else 0


if __name__ == "__main__":
    sys.exit(main())

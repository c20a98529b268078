"""The swap soak: clients ask three models of which one fits, so that they take turns, while control, engines and router
workers are killed: `python -m tests.chaos.swap_soak --swaps 1000 --kills 300`, or `make swap-soak`. With `--sleep` the
models sleep instead of being unloaded, and sleepers are killed too. `--report FILE` writes the figures as JSON. Exit
code 1: a request was lost or answered by another model, two models were loaded at once, or something was left at the
end.
"""

import argparse
import asyncio
import json
import os
import random
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import httpx
from openai import APITimeoutError, AsyncOpenAI

from berth.ipc import traffic
from berth.sim.options import PARAGRAPH
from berth.state import ReplicaStatus
from tests.chaos.observation import WAYS, Observation, Outcome, ask, make_client
from tests.e2e.appliance import Appliance
from tests.fakes.boot import QWEN_8B
from tests.fakes.nvml.build import environment
from tests.fakes.sim_as_vllm import install_simulated_vllm

NAMES: Final = ("red", "green", "blue")
ENGINE: Final = "--load-time 500ms --itl 2ms"
TOKENS: Final = 400  # more than the text has
HANG_S: Final = 30.0
AFTER_S: Final = 2.0  # a kill explains what fails so long after it
POLL_S: Final = 0.2
LOADED: Final = frozenset({ReplicaStatus.STARTING, ReplicaStatus.WAKING, ReplicaStatus.READY, ReplicaStatus.DRAINING})
VICTIMS: Final = ("control", "engine", "worker", "sleeper")
CHANGES: Final = re.compile(
    r'^berth_model_change(s|_seconds)_total{change="(\w+)",model="\w+",why="(\w+)"} (\S+)$', re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How it is run."""

    swaps: int
    kills: int = 0  # at least
    sleeps: bool = False
    clients: int = 16
    kill_every_s: float = 10.0  # 0: nothing is killed
    seed: int = 0


@dataclass(slots=True, kw_only=True)
class Seen:
    """What has happened."""

    swaps: int = 0
    whole: int = 0
    explained: int = 0  # failed, with an error, when something of theirs was killed
    wrong: list[str] = field(default_factory=list)
    kills: list[tuple[float, str]] = field(default_factory=list)
    longest_s: float = 0.0
    still_s: float = 0.0  # the longest time without an answer and without a change of any model
    changes: dict[str, list[float]] = field(default_factory=dict)  # of models, "sleep by swap": how many, and seconds


def text_of(model: str) -> str:
    return f"I am {model}. {PARAGRAPH}"


def is_explained(kills: Sequence[tuple[float, str]], began: float, ended: float) -> bool:
    """Whether an engine or a worker was killed that the request may have been at."""
    return any(what in ("engine", "worker") and began - AFTER_S <= at <= ended for at, what in kills)


def judge(one: Observation, kills: Sequence[tuple[float, str]], began: float, ended: float) -> str:
    """What is wrong with an answer; "" for one that is whole, or has failed for a reason."""
    outcome = one.outcome(text_of(one.model))
    if outcome is Outcome.WHOLE:
        return ""
    if outcome is Outcome.TOLD and not isinstance(one.error, APITimeoutError):
        return "" if is_explained(kills, began, ended) else f"lost: {one.model}, {one.way}: {one.error!r}"
    return f"{outcome}: {one.model}, {one.way}: {one.error!r} ...{one.text[-60:]!r}"


@contextmanager
def appliance(
    folder: Path, *, sleeps: bool = False, engine: str = ENGINE, fields: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Appliance]:
    """One GPU that holds one of three models, and what the others keep asleep. Each says another text. `fields`: of
    each model. Each start takes further arguments from the file `more`.
    """
    source = folder / "model"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(QWEN_8B))
    with (source / "model.safetensors").open("wb") as file:
        file.truncate(3 * 2**30)
    models: dict[str, Any] = {
        name: {
            "source": str(source),
            "engines": ["vllm"],
            "load": "on_request",
            "min_residency": "1s",
            "max_wait": "1s",
            "kv_cache": "5GiB",
            "sleep": sleeps,
            "vllm": {
                "env": {
                    "FAKE_VLLM_ARGUMENTS": f"{engine} --text {shlex.quote(text_of(name))}",
                    "FAKE_VLLM_FILE": str(folder / "more"),
                }
            },
            **fields,
        }
        for name in NAMES
    }
    install_simulated_vllm(folder / "engines")
    (folder / "more").touch()
    held = folder / "held"
    held.mkdir()
    variables = {**environment(folder, count=1, total_mib=16 * 1024, held_in=held), "CUDA_VISIBLE_DEVICES": "0"}
    variables |= {"BERTH_ENGINE_HOME": str(folder / "engines"), "BERTH_WORKERS": "2", "BERTH_QUEUE_TIMEOUT": "120s"}
    variables |= {"BERTH_RESTART_LIMIT": "1000", "BERTH_RESTART_WINDOW": "1s"}
    with Appliance(json.dumps(models), **variables) as berth:
        berth.wait(lambda: {one["status"] for one in berth.replicas().values()} == {"unloaded"})
        yield berth


def watch(berth: Appliance, course: Course, seen: Seen, over: threading.Event) -> None:
    """Kills, counts swaps, and sees that one model is loaded at a time; until there were enough."""
    last, moved_at = "", time.monotonic()
    moved: tuple[object, ...] = ()
    chance, next_kill = random.Random(course.seed), time.monotonic() + course.kill_every_s
    while seen.swaps < course.swaps or len(seen.kills) < course.kills:
        time.sleep(POLL_S)
        state = berth.state()
        ready = [one.name for one in state.replicas if one.status is ReplicaStatus.READY and one.name != last]
        now, before = time.monotonic(), moved
        moved = (seen.whole, seen.explained, *(one.status for one in state.replicas))
        moved_at = moved_at if moved == before else now
        if now - moved_at > max(HANG_S / 2, seen.still_s):
            waits = {one.name: f"{one.status} {one.reason}" for one in state.replicas}
            say(
                f"nothing has moved for {now - moved_at:.1f} s: {waits}; the last kills: {seen.kills[-3:]}, it is {now}"
            )
        seen.still_s = max(seen.still_s, now - moved_at)
        if ready:
            seen.swaps, last = seen.swaps + 1, ready[0]
        loaded = [one.name for one in state.replicas if one.status in LOADED]
        if len(loaded) > 1:
            seen.wrong.append(f"loaded at once: {', '.join(loaded)}")
        if course.kill_every_s and time.monotonic() >= next_kill:
            next_kill = time.monotonic() + course.kill_every_s
            what = chance.choice(VICTIMS[: None if course.sleeps else -1])
            if victims := pids(berth, what):
                seen.kills.append((time.monotonic(), what))
                with suppress(ProcessLookupError):  # it has gone by itself
                    os.kill(chance.choice(victims), signal.SIGKILL)
    over.set()
    with suppress(OSError, httpx.HTTPError):
        seen.changes = changes(berth.get("/metrics").text)


def changes(metrics: str) -> dict[str, list[float]]:
    """How often models changed and how long that took, by change and reason."""
    found: dict[str, list[float]] = {}
    for kind, change, why, number in CHANGES.findall(metrics):
        found.setdefault(f"{change} by {why}", [0.0, 0.0])[kind == "_seconds"] += float(number)
    return found


def pids(berth: Appliance, what: str) -> list[int]:
    state = berth.state()
    match what:
        case "control":
            return [state.control_pid]
        case "engine":
            return [one.pid for one in state.replicas if one.pid and one.status in LOADED]
        case "sleeper":
            return [one.pid for one in state.replicas if one.pid and one.status is ReplicaStatus.ASLEEP]
        case _:
            return list(traffic.workers(berth.paths.heartbeats).values())


async def client(asks: AsyncOpenAI, first: int, seen: Seen, over: threading.Event) -> None:
    pairs = [(model, way) for way in WAYS for model in NAMES]
    for number in count(first):
        if over.is_set():
            return
        model, way = pairs[number % len(pairs)]
        began = time.monotonic()
        one = await ask(asks, model, way, max_tokens=TOKENS)
        ended = time.monotonic()
        seen.longest_s = max(seen.longest_s, ended - began)
        if wrong := judge(one, seen.kills, began, ended):
            say(wrong)
            seen.wrong.append(wrong)
            await asyncio.sleep(0.1)
        elif one.error is None:
            seen.whole += 1
        else:
            seen.explained += 1
            await asyncio.sleep(0.1)


def soak(course: Course, say: Callable[[str], None]) -> Seen:
    seen, over = Seen(), threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="berth-swaps-") as folder,
        appliance(Path(folder), sleeps=course.sleeps) as berth,
    ):
        watcher = threading.Thread(target=watch, args=(berth, course, seen, over))
        watcher.start()

        async def run() -> None:
            async with make_client(berth.url) as asks, asyncio.TaskGroup() as group:
                for number in range(course.clients):
                    group.create_task(client(asks, number, seen, over))
                while not over.is_set():
                    await asyncio.sleep(10 * POLL_S)
                    say(f"{seen.swaps} swaps, {seen.whole} answers, {len(seen.kills)} kills")

        asyncio.run(run())
        watcher.join()
    return seen  # nothing was left: the appliance checks that when it stops


def report(seen: Seen) -> str:
    kills = ", ".join(f"{what} {times}" for what, times in sorted(Counter(what for _, what in seen.kills).items()))
    lines = [
        f"{seen.swaps} swaps; killed: {kills or 'nothing'}",
        f"{seen.whole} answers were whole, {seen.explained} ended with an error after a kill of their engine or worker",
        f"the longest took {seen.longest_s:.1f} s; the longest time in which nothing moved: {seen.still_s:.1f} s",
        *(f"{what}: {number:.0f} in {seconds:.1f} s" for what, (number, seconds) in sorted(seen.changes.items())),
        f"{len(seen.wrong)} were lost, silent, of another model, or loaded beside another one",
    ]
    return "\n".join([*lines, *seen.wrong])


def say(line: str) -> None:
    sys.stderr.write(f"swap-soak: {line}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=1000, help="all in all (default %(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="at the same time (default %(default)s)")
    parser.add_argument("--kill-every", type=float, default=10, metavar="S", help="0: nothing (default %(default)s)")
    parser.add_argument("--kills", type=int, default=0, help="at least so many (default %(default)s)")
    parser.add_argument("--sleep", action="store_true", help="models sleep instead of being unloaded")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the figures there, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    course = Course(
        swaps=given.swaps,
        kills=given.kills,
        sleeps=given.sleep,
        clients=given.clients,
        kill_every_s=given.kill_every,
        seed=given.seed,
    )
    seen = soak(course, say)
    if given.report:
        given.report.parent.mkdir(parents=True, exist_ok=True)
        given.report.write_text(json.dumps({"course": asdict(course), "seen": asdict(seen)}, indent=2))
    sys.stdout.write(f"{report(seen)}\n")
    return 1 if seen.wrong or not seen.whole or seen.still_s > HANG_S else 0


if __name__ == "__main__":
    sys.exit(main())

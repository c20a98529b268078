"""Does `berth bench` find what is known to be true? `make bench-truth`

Simulated engines of known speed, over their wire and in real time; and a hundred comparisons each, in virtual time, of
an engine with itself, with one that is 10 % slower, and with such a one whose starts differ. Prints what was found next
to the truth, and ends with 1 if a target is missed. It needs a machine that is not busy with anything else.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import uvloop

from berth.bench import report, workload
from berth.bench.box import Gpus
from berth.bench.client import EngineClient
from berth.bench.measure import Conditions, Engine
from berth.bench.plan_points import Profile
from berth.plan import DialectName, EngineName, Launch, Probe, Replica, Task
from berth.records.results import Outcome, Point, Slo, Window
from etc.tools.bench_truth.outcomes import Engines, fresh, tallies

TRIALS = 100
TOKENS, ITL_S, TTFT_S = 32, 0.02, 0.05
SMALL = Profile(requests=64, per_place=2, closed_s=0, open_s=0, warm_s=0, first_warm_s=0.5)


@dataclass(frozen=True, kw_only=True)
class Check:
    what: str
    found: float
    truth: float
    most: float  # relative difference

    @property
    def ok(self) -> bool:
        return abs(self.found / self.truth - 1) <= self.most

    def __str__(self) -> str:
        off = self.found / self.truth - 1
        return (
            f"{'ok  ' if self.ok else 'MISS'} {self.what:<70} {self.found:10.4f}  truth {self.truth:10.4f}  {off:+.2%}"
        )


@contextmanager
def simulated(*arguments: str) -> Iterator[Replica]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "berth", "sim", "--port", str(port), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield Replica(
            name="sim", model="sim", engine=EngineName.SIM, dialect=DialectName.VLLM, task=Task.GENERATE,
            url=f"http://127.0.0.1:{port}", served_name="sim", launch=Launch(argv=()), ready=Probe(path="/health"),
            alive=Probe(path="/health"), vocab_size=32_000,
        )  # fmt: skip
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("the simulated engine does not start")


def measured(replica: Replica, *points: Point, profile: Profile = SMALL, **fields: object) -> list[Window]:
    conditions = Conditions(
        workload=workload.parse(f"64/{TOKENS}"), slo=Slo(), profile=profile, seed=1, vocab_size=replica.vocab_size,
        progress=lambda _text: None,
    )  # fmt: skip
    conditions = replace(conditions, **fields)  # type: ignore[arg-type]

    async def scene() -> list[Window]:
        client = EngineClient(replica)
        engine = Engine(client=client, conditions=conditions, gpus=Gpus(()))
        try:
            return [await engine.window(point, number) for number, point in enumerate(points)]
        finally:
            client.close()

    return uvloop.run(scene())


def times() -> Iterator[Check]:
    per_running_s = 0.0001
    itl = ("--itl", f"{ITL_S * 1e3:g}ms")
    with simulated(*itl, "--ttft", f"{TTFT_S * 1e3:g}ms", "--jitter", "0.0001") as replica:
        (alone,) = measured(replica, Point(concurrency=1))
        first_ms = alone.ttft["p50"].value * 1e3
        yield Check(what="first token, in ms", found=first_ms, truth=TTFT_S * 1e3, most=0.06)
    with simulated(*itl, "--ttft", "0ms", "--itl-per-running", f"{per_running_s * 1e3:g}ms") as replica:
        # Places that fall free together are filled again one by one: the step meanwhile is a short one. With 64
        # places one step of 32 is shorter by a quarter, which is no fault of the bench: so their answers are longer.
        for count, tokens in ((1, TOKENS), (16, TOKENS), (64, 4 * TOKENS)):
            point = Point(concurrency=count)
            (found,) = measured(replica, point, workload=workload.parse(f"64/{tokens}"))
            truth = ITL_S + per_running_s * count
            yield Check(
                what=f"time per token, {point}, in ms",
                found=found.tpot["p50"].value * 1e3,
                truth=truth * 1e3,
                most=0.005,
            )
    places = 4
    with simulated(*itl, "--ttft", "0ms", "--max-running", str(places), "--jitter", "0.001") as replica:
        (found,) = measured(replica, Point(concurrency=2 * places), profile=replace(SMALL, requests=160))
        yield Check(
            what="capacity of 4 places, in requests/s", found=found.achieved, truth=places / (TOKENS * ITL_S), most=0.02
        )


def traps() -> Iterator[Check]:
    """1 if it is found out."""
    arguments = ("--itl", "10ms", "--max-running", "4", "--prefix-cache", "--prefill-rate", "100000")
    with simulated(*arguments) as replica:
        windows = measured(replica, Point(concurrency=4), Point(concurrency=4), reuse_prompts=True)
        yield _trap("a warm cache is called invalid", windows[1], "F7")
        yield _trap("a window with new prompts is not", windows[0], "")
        (capped,) = measured(replica, Point(rate=11.0), max_connections=2, seed=2)
        yield _trap("a client that is the limit is called invalid", capped, "F12")
        late = capped.ttft["p99"].value / capped.ttft_sent["p99"].value
        yield Check(
            what="and hides most of its p99: from the schedule / sent", found=min(late, 10), truth=10, most=0.001
        )


def _trap(what: str, found: Window, rule: str) -> Check:
    is_found = any(one.startswith(rule) for one in found.broken) if rule else not found.broken
    for one in found.broken:
        print(f"     {one}")
    return Check(what=what, found=float(is_found), truth=1, most=0)


def comparisons() -> Iterator[Check]:
    wanted = (
        (Engines(), "an engine and itself: ties of 100", Outcome.TIE),
        (Engines(slower=1.1), "10 % slower: found of 100", Outcome.SLOWER),
        (Engines(slower=1.1, starts=0.01), "", None),
    )
    for engines, what, outcome in wanted:
        found = tallies(engines, fresh(engines, TRIALS))
        decided = [one for one in found if not one.metric.startswith("ttft")]  # that varies by half a step
        for one in decided:
            if outcome is not None:
                yield Check(what=f"{what}, {one.metric}", found=one.outcomes[outcome], truth=100, most=0.05)
            print(f"     such as {report.shown(one.example)}")
        starts = f", starts that differ by {engines.starts:.0%}" if engines.starts else ""
        covered = sum(one.covered for one in decided) / len(decided)
        share = f"{engines.slower - 1:.0%} slower{starts}: intervals of 100 that hold it"
        yield Check(what=share, found=covered, truth=100, most=0.07)


def main() -> int:
    checks = []
    for group in (comparisons, times, traps):
        for check in group():
            print(check, flush=True)
            checks.append(check)
    missed = sum(not check.ok for check in checks)
    print(f"{len(checks)} checks, {missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

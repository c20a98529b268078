"""The soak: clients ask a whole appliance all the time while its engines are killed, frozen and reset, one every few
seconds. `python -m tests.chaos.soak --minutes 10`, or `make soak`. Exit code 1: an answer was short or wrong without a
word, or Berth's processes have grown.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos import report
from tests.chaos.fault_injection import inject_faults
from tests.chaos.process_usage import ProcessUsage, measure_usage
from tests.chaos.report import Soak
from tests.chaos.soak_clients import run_clients
from tests.e2e.appliance import Appliance, sim_models

PAIR, SOLO = "pair", "solo"
ENGINE = "--ttft 10ms --itl 10ms"
SETTLE_S = 6.0  # engines close connections that were idle for 5 s
MOST_WARM_S = 60.0
SETTINGS = {
    "BERTH_WORKERS": "2",
    "BERTH_FIRST_TOKEN_TIMEOUT": "2s",
    "BERTH_TOKEN_TIMEOUT": "2s",
    "BERTH_RESTART_LIMIT": "1000",  # what happens here is no crash loop
    "BERTH_RESTART_WINDOW": "1s",
    "BERTH_LOG_LEVEL": "error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How it is run."""

    seconds: float
    every_s: float = 5.0
    clients: int = 8

    @property
    def warm_s(self) -> float:
        return min(0.2 * self.seconds, MOST_WARM_S)


def soak(course: Course, say: Callable[[str], None]) -> Soak:
    models = f"{sim_models(PAIR, f'vllm {ENGINE}', f'sglang {ENGINE}', standby='hot')}\n"
    with Appliance(models + sim_models(SOLO, f"vllm {ENGINE}"), **SETTINGS) as berth:
        all_ready(berth)
        say(f"warming up for {course.warm_s:g} s")
        run(berth, course, course.warm_s)
        before, counted = settled(berth), report.counters(berth.get("/metrics").text)
        say(f"{course.clients} clients for {course.seconds - course.warm_s:g} s")
        with inject_faults(berth, course.every_s) as faults:
            answers = asyncio.run(run_clients(berth.url, (PAIR, SOLO), course.clients, course.seconds - course.warm_s))
        after = settled(berth)
        return Soak(
            seconds=course.seconds - course.warm_s,
            answers=answers,
            faults=dict(faults.done),
            counters=report.difference(report.counters(berth.get("/metrics").text), counted),
            before=before,
            after=after,
        )


def run(berth: Appliance, course: Course, seconds: float) -> None:
    """What is seen does not count yet."""
    with inject_faults(berth, course.every_s):
        asyncio.run(run_clients(berth.url, (PAIR, SOLO), course.clients, seconds))


def all_ready(berth: Appliance) -> None:
    berth.wait(lambda: {one["status"] for one in berth.replicas().values()} == {"ready"}, 60)


def settled(berth: Appliance) -> dict[str, ProcessUsage]:
    """When everything has come to rest."""
    all_ready(berth)
    time.sleep(SETTLE_S)
    return measure_usage(berth)


def parse() -> Course:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="all in all (default %(default)s)")
    parser.add_argument("--every", type=float, default=5, help="seconds between two deeds (default %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="at the same time (default %(default)s)")
    given = parser.parse_args()
    return Course(seconds=60 * given.minutes, every_s=given.every, clients=given.clients)


def say(line: str) -> None:
    sys.stderr.write(f"soak: {line}\n")


def main() -> int:
    done = soak(parse(), say)
    sys.stdout.write(f"{report.text(done)}\n")
    return 1 if report.wrongs(done) else 0


if __name__ == "__main__":
    sys.exit(main())

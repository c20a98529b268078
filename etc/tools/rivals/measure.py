"""One load on one router: what the clients saw, and what every side used up meanwhile."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from etc.tools.rivals import accounting
from etc.tools.rivals.failure import BenchError
from etc.tools.rivals.figures import ratio
from etc.tools.rivals.install import ROOT
from etc.tools.rivals.load import Load
from etc.tools.rivals.routers import Router
from etc.tools.rivals.tally import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """CPU seconds, up to a moment or between two."""

    router: float
    whole: float  # with what belongs to the router but answers no requests
    upstream: float
    machine: float  # all processes there are

    def since(self, before: "Usage") -> "Usage":
        return Usage(
            router=self.router - before.router,
            whole=self.whole - before.whole,
            upstream=self.upstream - before.upstream,
            machine=self.machine - before.machine,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    router: str
    result: Result
    usage: Usage
    pss_bytes: tuple[int, ...]  # of the router's processes after the load, the largest first
    whole_pss_bytes: int  # of everything that belongs to it

    @property
    def units(self) -> int:
        """Tokens of streams, else requests."""
        return self.result.tokens or self.result.requests

    @property
    def cost_us(self) -> float:
        """Of the router's CPU time, per token or request."""
        return 1e6 * ratio(self.usage.router, self.units)

    @property
    def whole_cost_us(self) -> float:
        return 1e6 * ratio(self.usage.whole, self.units)

    @property
    def upstream_cost_us(self) -> float:
        return 1e6 * ratio(self.usage.upstream, self.units)

    @property
    def units_per_s(self) -> float:
        return ratio(self.units, self.result.wall_s)

    @property
    def others_cpus(self) -> float:
        """How many CPUs were busy with what is no part of the measurement."""
        own = self.usage.whole + self.usage.upstream + self.result.cpu_s
        return max(0.0, ratio(self.usage.machine - own, self.result.wall_s))


def usage(router: Router, upstream: Sequence[int]) -> Usage:
    known = accounting.stats()
    return Usage(
        router=accounting.cpu_s(router.roots, known),
        whole=accounting.cpu_s(router.all_roots or router.roots, known),
        upstream=accounting.cpu_s(upstream, known),
        machine=accounting.machine_cpu_s(),
    )


def measure(router: Router, load: Load, upstream: Sequence[int]) -> Measurement:
    """Everything but the warm-up. BenchError when the router does not answer as it should from the start."""
    with generator(router, load) as process:
        before = usage(router, upstream)
        output, errors = process.communicate("go\n")
        used = usage(router, upstream).since(before)
    if process.returncode != 0:
        raise BenchError(f"the load broke off: {errors.strip()[-400:]}")
    return Measurement(
        router=router.name,
        result=Result.from_json(output),
        usage=used,
        pss_bytes=tuple(accounting.tree_pss_bytes(router.roots)),
        whole_pss_bytes=sum(accounting.tree_pss_bytes(router.all_roots or router.roots)),
    )


@contextmanager
def generator(router: Router, load: Load) -> Iterator["subprocess.Popen[str]"]:
    """The load generator, warmed up and waiting for a line."""
    command = [
        sys.executable,
        "-m",
        "etc.tools.rivals.load",
        "--url",
        router.url,
        "--key",
        router.key,
        *load.arguments(),
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise BenchError(f"{router.name}: {process.communicate()[1].strip()[-400:]}")
            yield process
        finally:
            process.kill()

"""What is checked with nothing but NVML and a process that holds GPU memory: readings, holders, release, proof."""

import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from berth.control.decisions.memory import TOLERANCE_BYTES, Result, judge
from berth.host import gpus as nvml
from berth.host.gpu_usage import Gpus
from berth.plan import Gpu
from berth.state import GpuState
from berth.units import GIB, MIB

SAMPLE_S = 0.05
PROOF_S = 0.25
LONGEST_RELEASE_S = 30.0
READINGS = 20
LATEST_PROOF_S = 2.0  # after the last byte is back; on an idle machine it takes three readings

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One GPU, and how to hold memory of it."""

    gpu: Gpu
    gpus: Gpus
    holder: Sequence[str]  # a command that takes the number of bytes, and says so when it holds them

    def reading(self) -> tuple[GpuState, ...]:
        return tuple(one for one in self.gpus.read() if one.index == self.gpu.index)

    def used(self) -> int:
        return self.gpus.used([self.gpu.index])[self.gpu.index]

    def share(self) -> int:
        """Bytes to hold: half of what is free, at most 8 GiB."""
        return min(8 * GIB, (self.gpu.memory_total_bytes - self.used()) // 2)

    @contextmanager
    def held(self, bytes_: int) -> Iterator["subprocess.Popen[bytes]"]:
        """Within it a process holds so much. RuntimeError if it cannot."""
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": self.gpu.uuid}
        command = [*self.holder, str(bytes_)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
            try:
                if process.stdout is None or process.stdout.readline() != b"holds\n":
                    raise RuntimeError(f"{' '.join(command)} does not hold memory: see its message above")
                yield process
            finally:
                process.kill()


def readings(bench: Bench) -> Json:
    """How long a reading takes, and how far readings differ while nothing happens."""
    took, used = [], []
    for _ in range(READINGS):
        began = time.monotonic()
        used.append(bench.used())
        took.append(time.monotonic() - began)
        time.sleep(SAMPLE_S)
    return {
        "reading_ms": round(1000 * statistics.median(took), 2),
        "spread_mib": (max(used) - min(used)) // MIB,
        "used_mib": used[-1] // MIB,
        "alike": max(used) - min(used) <= TOLERANCE_BYTES,
    }


def holders(bench: Bench) -> Json:
    """Whether NVML lists the process that holds memory, under which pid, and how much it counts."""
    before = bench.used()
    with bench.held(GIB) as process:
        listed = nvml.occupants().get(bench.gpu.index, ())
        return {
            "counted_mib": (bench.used() - before) // MIB,
            "listed": len(listed),
            "own_pid_is_listed": any(one.pid == process.pid for one in listed),
            "names": sorted({one.name for one in listed}),
        }


def release(bench: Bench, number: signal.Signals) -> Json:
    """How the memory comes back after the end of a process: milliseconds and MiB above what was used before."""
    before = bench.used()
    with bench.held(bench.share()) as process:
        held = bench.used() - before
        process.send_signal(number)
        began, curve = time.monotonic(), list[tuple[int, int]]()
        while not curve or (curve[-1][1] * MIB > TOLERANCE_BYTES and curve[-1][0] < LONGEST_RELEASE_S * 1000):
            curve.append((round(1000 * (time.monotonic() - began)), max(bench.used() - before, 0) // MIB))
            time.sleep(SAMPLE_S)
    return {
        "held_mib": held // MIB,
        "seconds": curve[-1][0] / 1000,
        "released": curve[-1][1] * MIB <= TOLERANCE_BYTES,
        "curve_ms_mib": curve,
    }


def proof(bench: Bench) -> Json:
    """Berth's own proof: nothing starts while the memory is held, and soon after it is back something does."""
    share, before = bench.share(), bench.used()
    need = {bench.gpu.index: bench.gpu.memory_total_bytes - before - share // 2}
    taken: list[tuple[GpuState, ...]] = []
    with bench.held(share) as process:
        while_held = [_judged(bench, taken, need) for _ in range(5)]
        process.kill()
        back_at = free_at = None
        ends = time.monotonic() + LONGEST_RELEASE_S
        while free_at is None and time.monotonic() < ends:
            is_free = _judged(bench, taken, need)
            now, above = time.monotonic(), taken[-1][0].memory_used_bytes - before
            back_at = back_at or (now if above <= TOLERANCE_BYTES else None)
            free_at = now if is_free else None
    late_s = None if free_at is None else round(free_at - (back_at or free_at), 2)
    return {
        "started_while_held": sum(while_held),
        "proven_after_s": late_s,
        "ok": not any(while_held) and late_s is not None and late_s <= LATEST_PROOF_S,
    }


def _judged(bench: Bench, taken: list[tuple[GpuState, ...]], need: dict[int, int]) -> bool:
    """Whether an engine would start, after one more reading."""
    taken.append(bench.reading())
    time.sleep(PROOF_S)
    return judge(taken, need).result is Result.FREE


PARTS: dict[str, Callable[[Bench], Json]] = {
    "readings": readings,
    "holders": holders,
    "release after SIGTERM": lambda bench: release(bench, signal.SIGTERM),
    "release after SIGKILL": lambda bench: release(bench, signal.SIGKILL),
    "proof": proof,
}

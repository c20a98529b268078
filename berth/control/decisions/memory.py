"""Whether the GPU memory that an engine is going to take is free, from readings of NVML. Pure.

An engine starts, or wakes, once STEADY_READINGS readings in a row are alike and leave what it takes: an engine measures
its GPU while it loads, and fails if others take or release memory meanwhile. There is no time after which it starts all
the same. Readings are of the whole GPU: inside a container NVML does not say which process is whose.

What cannot be read is not proven: without readings, and on GPUs that have no memory of their own, engines start as they
do without a GPU.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from berth.control.decisions.records import Record
from berth.engines.cli_arguments import option
from berth.host.gpu_usage import Used
from berth.plan import EngineName, Gpu, Replica
from berth.state import GpuState, ReplicaStatus
from berth.units import size

STEADY_READINGS = 3
TOLERANCE_BYTES = 64 * 2**20  # between readings that count as equal
EXCESS_BYTES = 512 * 2**20  # more than expected: contexts of other processes grow a little


class Result(StrEnum):
    FREE = "free"
    UNREADABLE = "unreadable"  # no proof is possible
    UNSTEADY = "unsteady"  # too few readings yet, or it is being released
    SHORT = "short"  # others hold it


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Of the memory of one replica that is to start or to wake."""

    result: Result
    missing: Used = field(default_factory=lambda: MappingProxyType({}))  # bytes, by GPU index

    @property
    def allows_start(self) -> bool:
        return self.result in (Result.FREE, Result.UNREADABLE)


def needed(record: Record, gpus: Iterable[Gpu]) -> dict[int, int]:
    """The bytes that it is going to take on each of its GPUs. Empty where that is not known."""
    replica = record.replica
    own = {gpu.index: gpu.memory_total_bytes for gpu in gpus if gpu.index in replica.gpus and not gpu.unified}
    if record.status is ReplicaStatus.ASLEEP:
        least = (replica.memory.weights_bytes + replica.memory.kv_bytes) if replica.memory else 0
        return {index: record.released.get(index, least) for index in own}
    fraction = _fraction(replica)
    # vLLM refuses to start if less is free; the others take what they find
    spare = 0 if replica.engine is EngineName.VLLM else EXCESS_BYTES
    return {index: max(int(total * fraction) - spare, 0) for index, total in own.items()} if fraction else {}


def judge(readings: Sequence[Sequence[GpuState]], need: Mapping[int, int]) -> Proof:
    """`readings`: the newest last, each of all GPUs that respond."""
    last = [{one.index: one for one in reading} for reading in readings[-STEADY_READINGS:]]
    if last and not need.keys() <= last[-1].keys():
        return Proof(result=Result.UNREADABLE)
    if len(last) < STEADY_READINGS:
        return Proof(result=Result.UNSTEADY)
    missing = {}
    for index, bytes_ in need.items():
        newest = last[-1][index]
        short = bytes_ - (newest.memory_total_bytes - newest.memory_used_bytes)
        if short > 0:
            missing[index] = short
    if missing:
        return Proof(result=Result.SHORT, missing=missing)
    is_steady = steady([{index: one.memory_used_bytes for index, one in by.items()} for by in last], need)
    return Proof(result=Result.FREE if is_steady else Result.UNSTEADY)


def steady(readings: Sequence[Used], indexes: Iterable[int]) -> bool:
    """The last ones are alike. A GPU that did not respond to one of them is not."""
    last = readings[-STEADY_READINGS:]
    for index in indexes:
        values = [reading[index] for reading in last if index in reading]
        if len(values) < STEADY_READINGS or max(values) - min(values) > TOLERANCE_BYTES:
            return False
    return True


def shortage(
    need: Mapping[int, int],
    proof: Proof,
    residents: Mapping[int, Sequence[str]],
    strangers: Mapping[int, Sequence[str]],
) -> str:
    """For people: what is missing on each GPU, and who is on it. `residents`: Berth's own engines; `strangers`: the
    processes that NVML lists.
    """
    parts = []
    for index, missing in proof.missing.items():
        on_it = [*residents.get(index, ()), *(f"NVML lists {one}" for one in strangers.get(index, ()))]
        held_by = ", ".join(on_it) or "nothing that is visible in this container"
        parts.append(f"GPU {index}: {size(missing)} of {size(need[index])} are not free; on it: {held_by}")
    return "; ".join(parts) or "its GPU memory does not stop changing"


def _fraction(replica: Replica) -> float:
    """Of each GPU. The user's arguments come last, and win."""
    given = option(replica.launch.argv, "--gpu-memory-utilization") if replica.launch else None
    try:
        return float(given) if given else replica.memory_fraction or 0.0
    except ValueError:
        return 0.0  # the engine will say so

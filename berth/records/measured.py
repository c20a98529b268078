"""What engines took at their starts: control measures it, and boot plans with it instead of its estimates.

One file in the data directory, written by control alone. Nothing in it is needed to serve: what cannot be read counts
as not measured, and the file of a newer Berth is not touched.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from berth.plan import Gpu, MeasuredAs
from berth.processes import replace_file
from berth.records.rows import read_rows

MEASURED_VERSION = 1
MOST = 500  # measurements; the oldest are dropped
LARGEST_BYTES = 1 << 44  # of a GPU: more is a mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Of one start, in bytes per GPU."""

    of: MeasuredAs
    at: int  # Unix seconds
    weights_bytes: int
    overhead_bytes: int  # besides weights and KV cache, graphs included
    graphs_bytes: int = 0  # 0: unknown
    kv_bytes: int
    kv_tokens: int  # that the engine says the cache holds, in requests of the context
    context: int
    starts: int = 1  # measured so far

    @property
    def sound(self) -> bool:
        """A file may hold anything."""
        sizes = (self.weights_bytes, self.overhead_bytes, self.graphs_bytes, self.kv_bytes)
        return (
            all(0 <= bytes_ < LARGEST_BYTES for bytes_ in sizes) and min(*sizes[::3], self.kv_tokens, self.context) > 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The contents of the file."""

    measurements: tuple[Measurement, ...] = ()
    problem: str = ""  # why the file is ignored
    newer: bool = False  # another version wrote it: it must not be replaced

    def find(self, of: MeasuredAs) -> Measurement | None:
        return next((one for one in self.measurements if one.of == of), None)


def path(data_dir: str) -> Path:
    return Path(data_dir, "berth", "measured.json")


def read(data_dir: str) -> Measured:
    """Of what the file holds, all that is sound."""
    rows, problem, newer = read_rows(path(data_dir), "measurements", MEASURED_VERSION)
    found = tuple(one for row in rows if (one := _measurement(row)) is not None)
    return Measured(measurements=found, problem=problem, newer=newer)


def _measurement(row: object) -> Measurement | None:
    try:
        one = msgspec.convert(row, Measurement)
    except (ValueError, RecursionError):
        return None
    return one if one.sound else None


def keep(data_dir: str, measurement: Measurement) -> None:
    """Adds it to the file, in place of an older one of the same. OSError where the file cannot be written; ValueError
    where it must not be.
    """
    before = read(data_dir)
    if before.newer:
        raise ValueError(before.problem)
    same = before.find(measurement.of)
    others = [one for one in before.measurements if one.of != measurement.of]
    kept = sorted(others, key=lambda one: one.at)[-(MOST - 1) :]
    new = replace(measurement, starts=same.starts + 1 if same else 1)
    content = {"version": MEASURED_VERSION, "measurements": [*kept, new]}
    file = path(data_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, msgspec.json.format(msgspec.json.encode(content), indent=1))


def gpu_kind(gpus: Iterable[Gpu]) -> str:
    """The name and generation of GPUs that work together."""
    return " + ".join(sorted({f"{gpu.name}, {gpu.compute_capability}" for gpu in gpus}))

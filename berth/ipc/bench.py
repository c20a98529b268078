"""What `/admin/bench` requests of `berth bench`: the options of its command line, and the file by which control hands
them to the program that it starts. Part of the operations' contract: a bench is a lease on its model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from berth.plan import RunPaths

FILE: Final = "bench.json"
PROGRAM: Final = "bench"  # of supervisord
LONGEST_PROGRESS: Final = 200  # characters
LONGEST_FAILURE: Final = 400
MOST_BYTES: Final = 640  # of the options as JSON: they are kept with the operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """See `berth bench --help`."""

    engines: tuple[str, ...] = ()
    workload: str = "chat"
    slo: str = ""
    quick: bool = False
    rounds: int | None = None
    windows: int | None = None
    requests: int | None = None
    seconds: float | None = None
    seed: int = 1
    rate: float | None = None
    concurrency: int | None = None
    gpu_hour_cost: float | None = None
    yes: bool = False  # although clients have used the model within the last minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Of control, to the program that it starts."""

    operation: str  # the lease
    model: str
    bench: Bench


def path(paths: RunPaths) -> Path:
    return Path(paths.run_dir, FILE)

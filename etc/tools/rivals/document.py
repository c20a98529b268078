"""The results as JSON: the machine, what was run and how, every figure of every round, and the medians."""

import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from etc.tools.rivals import loads
from etc.tools.rivals.columns import COLUMNS
from etc.tools.rivals.compare import Comparison
from etc.tools.rivals.install import ROOT
from etc.tools.rivals.measure import Measurement
from etc.tools.rivals.saturation import Saturated

FORMAT = 1  # of the document: one more whenever a reader of the old one would go wrong


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(Path("/proc/cpuinfo").read_text()),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }


def _cpu_model(cpuinfo: str) -> str:
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == "model name"), platform.machine())


def commit() -> str:
    """Empty outside of a clone; `-dirty` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout.strip()


def document(
    comparison: Comparison, saturated: Sequence[Sequence[Saturated]], *, seconds: float, text: str
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": sys.orig_argv[1:],
        "commit": commit(),
        "machine": machine(),
        "routers": {one.name: {"version": one.version, "command": one.command} for one in comparison.routers},
        "left_out": comparison.left_out,
        "loads": {name: {"title": loads.TITLES[name], **plain(loads.LOADS[name](seconds))} for name in loads.LOADS},
        "summary": {load: summary(comparison, load) for load in comparison.rounds},
        "rounds": {load: [list(map(_measured, one)) for one in rounds] for load, rounds in comparison.rounds.items()},
        "saturation": [[_saturated(one) for one in round_] for round_ in saturated],
        "text": text,
    }


def summary(comparison: Comparison, load: str) -> dict[str, dict[str, float | None]]:
    """Router -> figure -> median of the rounds."""
    figures = comparison.figures(load)
    return {
        router: {column.key: number(column.value(figures, router)) for column in COLUMNS[load]}
        for router in figures.measurements
    }


def number(value: float) -> float | None:
    """JSON knows no other name for what is not a number."""
    return None if math.isnan(value) else round(value, 4)


def plain(value: Any) -> dict[str, Any]:
    built = msgspec.to_builtins(value)
    assert isinstance(built, dict)
    return built


def _measured(one: Measurement) -> dict[str, Any]:
    return {
        **plain(one),
        "cost_us": number(one.cost_us),
        "whole_cost_us": number(one.whole_cost_us),
        "per_s": number(one.units_per_s),
        "others_cpus": number(one.others_cpus),
    }


def _saturated(one: Saturated) -> dict[str, Any]:
    return {**plain(one), "measurement": _measured(one.measurement)}

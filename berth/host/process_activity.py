"""What processes have done so far: CPU time, and what they have read. Linux only, through /proc."""

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from berth.proc_stat import PROC

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Activity(NamedTuple):
    """Of some processes together. It falls when one of them ends."""

    cpu_s: float = 0.0
    read_bytes: int = 0  # from files, pipes and disks
    faults: int = 0  # pages that were read from a disk or a network file system, as a file that is mapped is read


def activity(pids: Iterable[int]) -> Activity | None:
    """None if none of the processes can be seen. What another user's process reads is not shown, and counts as 0."""
    seen, cpu_ticks, read_bytes, faults = False, 0, 0, 0
    for pid in pids:
        try:
            fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        seen, cpu_ticks, faults = True, cpu_ticks + int(fields[11]) + int(fields[12]), faults + int(fields[9])
        with suppress(OSError):
            lines = (PROC / str(pid) / "io").read_text(encoding="ascii").split("\n")
            counted = dict(line.split(": ", 1) for line in lines if line)
            read_bytes += max(int(counted["rchar"]), int(counted["read_bytes"]))
    return Activity(cpu_ticks / _TICKS, read_bytes, faults) if seen else None

"""CPU time and memory of processes and all their descendants, from /proc."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """What /proc/<pid>/stat says of a process."""

    pid: int
    parent: int
    cpu_ticks: int  # user and system, with the children that have ended and were waited for

    @classmethod
    def parse(cls, text: str) -> "Stat":
        number, _, rest = text.partition(" (")
        fields = rest.rpartition(") ")[2].split()  # the name may hold anything; fields[0] is field 3
        return cls(pid=int(number), parent=int(fields[1]), cpu_ticks=sum(map(int, fields[11:15])))


def stats(proc: Path = PROC) -> dict[int, Stat]:
    """Of all processes, by their numbers."""
    found = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                stat = Stat.parse((entry / "stat").read_text(errors="replace"))
            except OSError:  # it has just ended
                continue
            found[stat.pid] = stat
    return found


def tree(roots: Iterable[int], among: dict[int, Stat]) -> set[int]:
    """The roots that live, and all that descend from them."""
    children: dict[int, list[int]] = {}
    for stat in among.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found: set[int] = set()
    waiting = [root for root in roots if root in among]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def cpu_s(roots: Iterable[int], among: dict[int, Stat] | None = None) -> float:
    """What the trees have used up so far; a process that ends hands its time on to the parent that waits for it."""
    known = stats() if among is None else among
    return sum(known[pid].cpu_ticks for pid in tree(roots, known)) / _TICKS_PER_S


def machine_cpu_s(proc: Path = PROC) -> float:
    """What all processes together have used up since the machine's start, as far as it shows."""
    user, nice, system, _idle, _wait, interrupts, soft = map(int, (proc / "stat").read_text().split()[1:8])
    return (user + nice + system + interrupts + soft) / _TICKS_PER_S


def pss_bytes(pid: int, proc: Path = PROC) -> int:
    """The process's part of the memory: what it shares with others is divided among them."""
    for line in (proc / str(pid) / "smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0]) * 1024
    return 0


def tree_pss_bytes(roots: Iterable[int]) -> list[int]:
    """Of each process of the trees, the largest first."""
    found = []
    for pid in tree(roots, stats()):
        try:
            found.append(pss_bytes(pid))
        except OSError:  # it has just ended
            continue
    return sorted(found, reverse=True)


def largest(roots: Iterable[int]) -> int:
    """The process of the trees that takes most memory: the one that does the work, where there are several."""
    return max(tree(roots, stats()), key=pss_bytes)


def open_files(pid: int, proc: Path = PROC) -> int:
    return len(list((proc / str(pid) / "fd").iterdir()))

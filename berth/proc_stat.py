"""/proc/<pid>/stat: the state of a process, and what identifies it after its pid was reused. Linux only."""

import os
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Stat(NamedTuple):
    state: str
    parent: int
    session: int
    start_ticks: int  # since the host's boot

    @property
    def alive(self) -> bool:
        return self.state not in "ZX"  # a zombie holds nothing and receives no signal

    @property
    def stopped(self) -> bool:
        """By SIGSTOP or SIGTSTP. A process that a debugger holds is not."""
        return self.state == "T"


def rss_bytes(pid: int) -> int:
    """The memory of a process in RAM; 0 where there is no such process."""
    try:
        return int((PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def stat_of(pid: int) -> Stat | None:
    """None where there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # after the name, which may hold anything; fields[0] is field 3
    return Stat(state=fields[0], parent=int(fields[1]), session=int(fields[3]), start_ticks=int(fields[19]))

"""Memory and open files of each of Berth's own processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from etc.tools.rivals import accounting
from tests.e2e.appliance import Appliance

MORE_BYTES: Final = 6 << 20  # an allocator never gives back all; a leak in a soak is larger
MORE_FILES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUsage:
    """Of one process."""

    pss_bytes: int
    open_files: int


def measure_usage(berth: Appliance) -> dict[str, ProcessUsage]:
    """Control, the router and its workers, by name and number."""
    names = {berth.find("berth", "control").pid: "control"}
    router = berth.find("berth", "router").pid
    for pid in sorted(accounting.tree([router], accounting.stats())):
        names[pid] = f"router worker {pid}" if pid != router else "router"
    return {
        name: ProcessUsage(pss_bytes=accounting.pss_bytes(pid), open_files=accounting.open_files(pid))
        for pid, name in names.items()
    }


def growth(before: Mapping[str, ProcessUsage], after: Mapping[str, ProcessUsage]) -> list[str]:
    """What is too much; a process that was replaced counts as well: none should have been."""
    found = [f"{name} is gone" for name in before.keys() - after.keys()]
    for name in before.keys() & after.keys():
        more = after[name].pss_bytes - before[name].pss_bytes
        files = after[name].open_files - before[name].open_files
        if more > MORE_BYTES:
            found.append(f"{name} has grown by {more / 1e6:.1f} MB")
        if files > MORE_FILES:
            found.append(f"{name} has {files} more open files")
    return sorted(found)

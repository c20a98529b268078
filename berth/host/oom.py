"""OOM-kill detection from cgroup and host counters.

A cgroup counts the kills of its processes, whatever ran out of memory; whether its own limit was reached is a second
counter.
"""

from dataclasses import dataclass
from pathlib import Path

from berth.host.cgroup import ROOT, folders, groups, number
from berth.units import size

_UNLIMITED_BYTES = 2**60  # cgroup v1 writes a number of about 2**63 for "no limit"
_NEARLY = 0.99  # of the limit: version 1 counts no failures where memory and swap have one limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Kills:
    """Counters at one moment. None: not readable."""

    container: int | None = None  # OOM kills in this container
    at_limit: int | None = None  # allocations that failed at the container's limit
    host: int | None = None  # OOM kills on the whole host, containers included
    limit_bytes: int | None = None  # None: the container has no limit
    peak_bytes: int | None = None  # the highest usage so far; None where the counters are enough


@dataclass(frozen=True, slots=True)
class _Names:
    """The files of a cgroup version, and the keys of the counters in them ("": the file is the number)."""

    kills: tuple[str, str]
    at_limit: tuple[str, str]
    limit: str
    peak: str | None = None


_V2 = _Names(kills=("memory.events", "oom_kill"), at_limit=("memory.events", "oom"), limit="memory.max")
_V1 = _Names(
    kills=("memory.oom_control", "oom_kill"),
    at_limit=("memory.failcnt", ""),
    limit="memory.limit_in_bytes",
    peak="memory.max_usage_in_bytes",
)


def cause(before: Kills, after: Kills) -> str:
    """Why the kernel killed a process of ours between the two moments; "" if it did not.

    There are three cases: 1. the container's limit was reached 2. a process of ours was killed, but not for that
    limit: the host ran out of memory 3. the cgroup has no counter, and a process on this host was killed.
    """
    if _grew(before.container, after.container):
        peak_bytes, limit_bytes = after.peak_bytes or 0, after.limit_bytes
        if limit_bytes is not None and (_grew(before.at_limit, after.at_limit) or peak_bytes >= _NEARLY * limit_bytes):
            return f"the container's memory limit of {size(limit_bytes)} was reached (docker run --memory)"
        return "the host ran out of memory"
    if after.container is None and _grew(before.host, after.host):
        return "the host ran out of memory"
    return ""


class Counters:
    """The OOM counters that this process can read. `root` is the folder that holds proc and sys."""

    def __init__(self, root: Path = ROOT) -> None:
        self._vmstat = root / "proc/vmstat"
        controller = "memory" if "memory" in groups(root) else ""
        self._names = _V1 if controller else _V2
        self._folders = [one for one in folders(root, controller) if (one / self._names.kills[0]).exists()]

    def read(self) -> Kills:
        host = number(self._vmstat, "oom_kill")
        if not self._folders:
            return Kills(host=host)
        found = [(number(folder / self._names.limit), folder) for folder in self._folders]
        limits = [(limit, folder) for limit, folder in found if limit is not None and limit < _UNLIMITED_BYTES]
        limit_bytes, limited = min(limits, default=(None, self._folders[0]))
        kills_file, kills_key = self._names.kills
        at_limit_file, at_limit_key = self._names.at_limit
        return Kills(
            container=number(self._folders[0] / kills_file, kills_key),
            at_limit=number(limited / at_limit_file, at_limit_key),
            host=host,
            limit_bytes=limit_bytes,
            peak_bytes=number(limited / self._names.peak) if self._names.peak else None,
        )


def _grew(before: int | None, after: int | None) -> bool:
    return before is not None and after is not None and after > before

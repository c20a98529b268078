"""Whom the kernel killed for want of memory: the counters of the container's cgroup (v2 or v1) and of the host.

The cgroup counts its processes whoever ran out of memory; whether its own limit was reached is another counter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED_BYTES = 2**60  # cgroup v1 writes a number of about 2**63 for "no limit"
_NEARLY = 0.99  # of the limit, ever used: version 1 does not count refusals where memory and swap have one limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Kills:
    """Counters at one moment. None: it cannot be read."""

    container: int | None = None  # processes of this container that an OOM killer ended
    at_limit: int | None = None  # how often memory was refused at the container's limit
    host: int | None = None  # processes of the whole machine, containers included
    limit_bytes: int | None = None  # None: the container has no limit
    peak_bytes: int | None = None  # the most that was ever in use; None where the counters are enough


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
    """Why the kernel killed something of ours between the two moments; "" if it did not.

    There are three cases: 1. the container's limit was reached 2. a process of ours was killed, but not for that
    limit: the host ran out of memory 3. the cgroup tells nothing, and something was killed on this host.
    """
    if _grew(before.container, after.container):
        if after.limit_bytes is not None and (_grew(before.at_limit, after.at_limit) or _was_full(after)):
            limit = f"{after.limit_bytes / 2**30:.1f} GiB"
            return f"the container's memory limit of {limit} was reached (docker run --memory)"
        return "the host ran out of memory"
    if after.container is None and _grew(before.host, after.host):
        return "the host ran out of memory"
    return ""


class Counters:
    """Where this process finds them."""

    def __init__(self, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._vmstat = proc / "vmstat"
        self._names, mount, path = _membership(proc / "self/cgroup", cgroups)
        self._folders = list(_folders(mount, path, self._names.kills[0]))

    def read(self) -> Kills:
        host = _number(self._vmstat, "oom_kill")
        if not self._folders:
            return Kills(host=host)
        limits = [(limit, folder) for folder in self._folders if (limit := self._limit(folder)) is not None]
        limit_bytes, limited = min(limits, default=(None, self._folders[0]))
        return Kills(
            container=_counter(self._folders[0], self._names.kills),
            at_limit=_counter(limited, self._names.at_limit),
            host=host,
            limit_bytes=limit_bytes,
            peak_bytes=_number(limited / self._names.peak, "") if self._names.peak else None,
        )

    def _limit(self, folder: Path) -> int | None:
        limit = _number(folder / self._names.limit, "")
        return limit if limit is not None and limit < _UNLIMITED_BYTES else None


def _was_full(kills: Kills) -> bool:
    return kills.peak_bytes is not None and kills.peak_bytes >= _NEARLY * (kills.limit_bytes or 0)


def _grew(before: int | None, after: int | None) -> bool:
    return before is not None and after is not None and after > before


def _membership(path: Path, cgroups: Path) -> tuple[_Names, Path, str]:
    """The version that has the memory controller, where it is mounted, and our group in it."""
    lines = [line.split(":", 2) for line in _text(path).splitlines() if line.count(":") >= 2]
    for _, controllers, group in lines:
        if "memory" in controllers.split(","):
            return _V1, cgroups / "memory", group
    group = next((group for number, _, group in lines if number == "0"), "/")
    return _V2, cgroups, group


def _folders(mount: Path, group: str, needed: str) -> Iterator[Path]:
    """Our group and those above it, as far as they can be seen: a container may see its own as the root."""
    folder = mount / group.lstrip("/")
    while folder != mount and mount in folder.parents:
        if (folder / needed).exists():
            yield folder
        folder = folder.parent
    if (mount / needed).exists():
        yield mount


def _counter(folder: Path, name: tuple[str, str]) -> int | None:
    return _number(folder / name[0], name[1])


def _number(path: Path, key: str) -> int | None:
    """The number behind the key, or the file's only one."""
    for line in _text(path).splitlines():
        words = line.split()
        if words and words[:-1] == ([key] if key else []) and words[-1].isdigit():
            return int(words[-1])
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""

"""Processes of one appliance: who leads a replica, what is left of it, and how to end it. Linux only, through /proc.

An engine is a tree of processes whose leader may die before its children, so a replica is known by two signs: the
session that `berth exec` opens for it (the leader's record has its number) and a marker in the environment.
"""

import ctypes
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from berth.plan import RunPaths

REPLICA_MARKER = "BERTH_REPLICA"  # <run_dir>:<replica>, in the environment of an engine and all its descendants
APPLIANCE_MARKER = "BERTH_APPLIANCE"  # <run_dir>, in that of supervisord, control and the router

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")
_POLL_S = 0.02
_KILL_WAIT_S = 5.0  # SIGKILL takes as long as the kernel needs to free the memory, GPU memory included


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """A process, known so well that another one with the same number is not taken for it."""

    pid: int
    start_ticks: int  # field 22 of /proc/<pid>/stat: when it started, since the machine's boot
    epoch: str = ""  # the machine's boot and PID namespace: numbers mean nothing in another one

    @classmethod
    def current(cls) -> "Leader":
        pid = os.getpid()
        stat = _stat(pid)
        return cls(pid=pid, start_ticks=stat.start_ticks if stat else 0, epoch=_epoch())

    def alive(self) -> bool:
        stat = _stat(self.pid)
        return stat is not None and stat.alive and stat.start_ticks == self.start_ticks and self.epoch == _epoch()


class _Stat(NamedTuple):
    state: str
    session: int
    start_ticks: int

    @property
    def alive(self) -> bool:
        return self.state not in "ZX"  # a zombie holds nothing and takes no signal


def adopt_orphans() -> None:
    """Descendants that lose their parent become children of this process. Kept over execve."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def follow_supervisor(paths: RunPaths, signum: signal.Signals = signal.SIGTERM) -> None:
    """This process gets `signum` when the appliance's supervisord dies; at once if it has died already.

    Without a record of a supervisord the present parent counts. Kept over execve, not inherited by children.
    """
    record = read_record(supervisor_record(paths))
    follow_parent(record.pid if record else os.getppid(), signum)


def follow_parent(parent: int, signum: signal.Signals = signal.SIGTERM) -> None:
    """This process, just forked, gets `signum` when `parent` dies; at once if it has died already. Kept over execve,
    not inherited by children.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:
        os.kill(os.getpid(), signum)


def supervisor_record(paths: RunPaths) -> Path:
    """Where boot writes who is, or becomes by execve, the appliance's supervisord."""
    return Path(paths.run_dir, "appliance.json")


def leader_record(paths: RunPaths, replica: str) -> Path:
    return paths.leaders / f"{replica}.json"


def channel(paths: RunPaths, program: str) -> Path:
    """The FIFO through which supervisord, control or the router says what it has to say."""
    return paths.logs / f"{program}.fifo"


def write_record(path: Path, leader: Leader) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    replace_file(path, msgspec.json.encode(leader))


def read_record(path: Path) -> Leader | None:
    """None for a record that is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Leader)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Writes the file so that readers in other processes see the old text or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}")
    try:
        temporary.touch(mode=0o600)  # never wider than wanted, not even for a moment
        temporary.write_bytes(data)
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def remains(paths: RunPaths, replica: str) -> list[int]:
    """The live processes of a replica, its leader included: those in the leader's session, those with the marker."""
    leader = read_record(leader_record(paths, replica))
    marker = _marker(REPLICA_MARKER, f"{paths.run_dir}:{replica}")
    return _find(_sessions([leader]), lambda variable: variable == marker)


def appliance_remains(paths: RunPaths) -> list[int]:
    """The live processes of the whole appliance: supervisord, control, router and every engine."""
    appliance = _marker(APPLIANCE_MARKER, paths.run_dir)
    replicas = _marker(REPLICA_MARKER, f"{paths.run_dir}:")
    leaders = [read_record(record) for record in sorted(paths.leaders.glob("*.json"))]
    return _find(_sessions(leaders), lambda variable: variable == appliance or variable.startswith(replicas))


def end(pids: Iterable[int], grace_s: float) -> list[int]:
    """SIGTERM, up to `grace_s` of patience, then SIGKILL. Blocks; returns those that even SIGKILL did not end."""
    wanted = {pid: stat.start_ticks for pid in pids if (stat := _stat(pid)) is not None and stat.alive}
    for signum, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_WAIT_S)):
        _send(wanted, signum)
        wanted = _wait(wanted, patience_s)
        if not wanted:
            break
    return sorted(wanted)


def sweep(find: Callable[[], list[int]], grace_s: float) -> list[int]:
    """Ends what `find` finds, and what those have started in the meantime. Blocks; returns the survivors."""
    survivors = end(find(), grace_s)
    for _ in range(3):
        late = [pid for pid in find() if pid not in survivors]
        if not late:
            break
        survivors += end(late, grace_s=0)
    return survivors


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}): {os.strerror(ctypes.get_errno())}")


def _epoch() -> str:
    """Empty parts where /proc does not tell: then records from another boot are told apart by their ticks alone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{boot} {namespace}"


def _stat(pid: int) -> _Stat | None:
    """None where there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # after the name, which may hold anything; fields[0] is field 3
    return _Stat(state=fields[0], session=int(fields[3]), start_ticks=int(fields[19]))


def _sessions(leaders: Iterable[Leader | None]) -> dict[int, int]:
    """Session number -> ticks of its leader. The number of a leader that is gone belongs to its session as long as
    that has members; only when a stranger has it, the session was empty and is not ours any more.
    """
    sessions = {}
    for leader in leaders:
        if leader is None or leader.pid <= 1 or leader.epoch != _epoch():
            continue
        holder = _stat(leader.pid)
        if holder is None or holder.start_ticks == leader.start_ticks:
            sessions[leader.pid] = leader.start_ticks
    return sessions


def _find(sessions: dict[int, int], ours: Callable[[bytes], bool]) -> list[int]:
    """Live processes in one of the sessions, or with a variable of ours. Never this process itself."""
    return [
        pid
        for pid, stat in _processes()
        if stat.start_ticks >= sessions.get(stat.session, math.inf) or any(map(ours, _environ(pid)))
    ]


def _processes() -> Iterator[tuple[int, _Stat]]:
    for pid in sorted(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()):
        stat = _stat(pid)
        if stat is not None and stat.alive and pid != os.getpid():
            yield pid, stat


def _environ(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # gone, or another user's: then not ours
        return []


def _marker(name: str, value: str) -> bytes:
    return os.fsencode(f"{name}={value}")


def _send(wanted: dict[int, int], signum: signal.Signals) -> None:
    for pid in _alive(wanted):
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):  # just gone; or not ours to end: then it is a survivor
            continue


def _alive(wanted: dict[int, int]) -> dict[int, int]:
    stats = {pid: _stat(pid) for pid in wanted}
    return {
        pid: ticks
        for pid, ticks in wanted.items()
        if (stat := stats[pid]) is not None and stat.alive and stat.start_ticks == ticks
    }


def _wait(wanted: dict[int, int], patience_s: float) -> dict[int, int]:
    deadline = time.monotonic() + patience_s
    while (wanted := _alive(wanted)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return wanted

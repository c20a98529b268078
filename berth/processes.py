"""Processes of one appliance: finding those of a replica, and terminating them. Linux only, through /proc.

An engine is a tree of processes whose first process may die before its children. A replica is therefore found by two
signs: the session that `berth exec` opens for it (the replica's record holds its number), and a marker in the
environment.
"""

import contextlib
import ctypes
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from berth.plan import RunPaths
from berth.proc_stat import PROC, stat_of

REPLICA_MARKER = "BERTH_REPLICA"  # <run_dir>:<replica>, in the environment of an engine and all its descendants
APPLIANCE_MARKER = "BERTH_APPLIANCE"  # <run_dir>, in that of supervisord, control and the router

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.02
_KILL_WAIT_S = 5.0  # SIGKILL takes as long as the kernel needs to free the memory, GPU memory included


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """Identifies a process, also after its pid was reused."""

    pid: int
    start_ticks: int  # when it started, since the host's boot
    epoch: str = ""  # the host's boot and PID namespace: pids are unique only within one

    @classmethod
    def current(cls) -> "ProcessRecord":
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> "ProcessRecord":
        return cls(pid=pid, start_ticks=start_ticks(pid) or 0, epoch=_epoch())

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    def alive(self) -> bool:
        stat = stat_of(self.pid)
        return stat is not None and stat.alive and stat.start_ticks == self.start_ticks and self.epoch == _epoch()


def adopt_orphans() -> None:
    """Descendants that lose their parent become children of this process. Kept over execve.

    Where that does not exist (an image for another CPU, run by qemu), init gets them: a replica's processes are found
    all the same, by its session and marker.
    """
    with contextlib.suppress(OSError):
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
    """The record of the appliance's supervisord, written by boot before it becomes supervisord by execve."""
    return Path(paths.run_dir, "appliance.json")


def replica_record(paths: RunPaths, replica: str) -> Path:
    """The record of a replica's session leader, written by `berth exec`."""
    return paths.leaders / f"{replica}.json"


def forked_record(paths: RunPaths, replica: str) -> Path:
    """The record of an engine that was forked from a preloaded one: `berth exec` stays the session leader in front of
    it, and the engine leads a session of its own.
    """
    return paths.leaders / f"{replica}+forked.json"  # no replica has such a name


def channel(paths: RunPaths, program: str) -> Path:
    """The FIFO for the output of supervisord, control or the router."""
    return paths.logs / f"{program}.fifo"


def write_record(path: Path, record: ProcessRecord) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    replace_file(path, record.to_json())


def read_record(path: Path) -> ProcessRecord | None:
    """None for a record that is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProcessRecord)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def replace_file(path: Path, data: bytes, mode: int = 0o644, *, durable: bool = False) -> None:
    """Writes the file atomically: readers in other processes see the old content or the new one. `durable`: also after
    a power failure, and it is the new one then.
    """
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}")
    try:
        temporary.touch(mode=0o600)  # never readable by others before the final mode is set
        temporary.write_bytes(data)
        temporary.chmod(mode)
        if durable:
            _synchronise(temporary)
        temporary.replace(path)
        if durable:
            _synchronise(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def start_ticks(pid: int) -> int | None:
    """When the process started, in ticks since the host's boot. None: no such process."""
    stat = stat_of(pid)
    return None if stat is None else stat.start_ticks


def leftovers(paths: RunPaths, replica: str) -> list[int]:
    """The live processes of a replica: those in its sessions and those with its marker."""
    records = map(read_record, (replica_record(paths, replica), forked_record(paths, replica)))
    marker = _marker(REPLICA_MARKER, f"{paths.run_dir}:{replica}")
    return _find(records, lambda variable: variable == marker)


def appliance_leftovers(paths: RunPaths) -> list[int]:
    """The live processes of the whole appliance: supervisord, control, router and every engine."""
    appliance = _marker(APPLIANCE_MARKER, paths.run_dir)
    replicas = _marker(REPLICA_MARKER, f"{paths.run_dir}:")
    records = [read_record(record) for record in sorted(paths.leaders.glob("*.json"))]
    return _find(records, lambda variable: variable == appliance or variable.startswith(replicas))


def terminate(pids: Iterable[int], grace_s: float) -> list[int]:
    """SIGTERM, then SIGKILL after `grace_s`. Blocks; returns the processes that survive even SIGKILL."""
    live = live_processes(pids)
    for signum, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_WAIT_S)):
        for pid in live:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # just gone; or another user's: a survivor
                os.kill(pid, signum)
        deadline = time.monotonic() + wait_s
        while (live := _still_live(live)) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if not live:
            break
    return sorted(live)


def sweep(find: Callable[[], list[int]], grace_s: float) -> list[int]:
    """Terminates what `find` finds, and what those have started in the meantime. Blocks; returns the survivors."""
    survivors = terminate(find(), grace_s)
    for _ in range(3):
        late = [pid for pid in find() if pid not in survivors]
        if not late:
            break
        survivors += terminate(late, grace_s=0)
    return survivors


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}): {os.strerror(ctypes.get_errno())}")


def _epoch() -> str:
    """Parts that /proc does not show are empty: then only the ticks distinguish records of another boot."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{boot} {namespace}"


def _find(records: Iterable[ProcessRecord | None], is_ours: Callable[[bytes], bool]) -> list[int]:
    """Live processes in the session of one of the records, or with one of our variables. Never this process itself."""
    sessions = _sessions(records)
    found = []
    for pid in sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()):
        stat = stat_of(pid)
        if stat is None or not stat.alive or pid == os.getpid():
            continue
        if stat.start_ticks >= sessions.get(stat.session, math.inf) or any(map(is_ours, _environ(pid))):
            found.append(pid)
    return found


def _sessions(records: Iterable[ProcessRecord | None]) -> dict[int, int]:
    """Session number -> start ticks of its session leader. The kernel reuses the pid of a dead session leader only
    when its session is empty: if another process has the pid, the session is not ours any more.
    """
    sessions = {}
    for record in records:
        if record is None or record.pid <= 1 or record.epoch != _epoch():
            continue
        if start_ticks(record.pid) in (None, record.start_ticks):
            sessions[record.pid] = record.start_ticks
    return sessions


def _environ(pid: int) -> list[bytes]:
    try:
        return (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # gone, or another user's: then not ours
        return []


def _marker(name: str, value: str) -> bytes:
    return os.fsencode(f"{name}={value}")


def live_processes(pids: Iterable[int]) -> dict[int, int]:
    """Start ticks by pid of those of the processes that have not ended."""
    return {pid: stat.start_ticks for pid in pids if (stat := stat_of(pid)) is not None and stat.alive}


def _still_live(processes: dict[int, int]) -> dict[int, int]:
    """Those of the processes, start ticks by pid, that have not ended."""
    return {
        pid: ticks
        for pid, ticks in processes.items()
        if (stat := stat_of(pid)) is not None and stat.alive and stat.start_ticks == ticks
    }

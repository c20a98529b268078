"""Real processes: engines whose first process dies, that ignore SIGTERM or leave their session; reused pids."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from berth import processes
from berth.plan import RunPaths
from berth.processes import APPLIANCE_MARKER, REPLICA_MARKER, ProcessRecord

WAIT = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
# Starts a child that prints its pid, then waits itself: an engine with a worker.
PARENT = f"""
import subprocess, sys, signal
child = subprocess.Popen([sys.executable, "-c", {WAIT!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
signal.pause()
"""


class Nursery:
    """Starts small programs, and ends those that a test left."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def start(self, code: str, *, session: bool = False, environ: dict[str, str] | None = None) -> tuple[int, str]:
        """The pid of a Python program that runs, and its first line."""
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=session,
            env=os.environ | (environ or {}),
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        assert process.stdout is not None
        return process.pid, process.stdout.readline().strip()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    with ExitStack() as stack:
        yield Nursery(stack)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(run_dir=str(tmp_path / "run % é ;"), data_dir=str(tmp_path))


def record(paths: RunPaths, replica: str, pid: int) -> ProcessRecord:
    """What `berth exec` writes for the process."""
    Path(paths.run_dir).mkdir(exist_ok=True)
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    first = replace(ProcessRecord.current(), pid=pid, start_ticks=int(fields[19]))
    processes.write_record(processes.replica_record(paths, replica), first)
    return first


def reap(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_record_identifies_the_process() -> None:
    me = ProcessRecord.current()
    assert me.pid == os.getpid()
    assert me.alive()
    assert not replace(me, start_ticks=me.start_ticks + 1).alive()
    assert not replace(me, epoch="another boot").alive()
    assert not replace(me, pid=2**22 + 1).alive()


def test_record_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "leaders" / "chat.json"
    processes.write_record(path, ProcessRecord.current())
    assert processes.read_record(path) == ProcessRecord.current()


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]", b'{"pid": "7"}', b'{"pid": 7}', b'{"pid": 1e99}'])
def test_damaged_record_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "chat.json").write_bytes(text)
    assert processes.read_record(tmp_path / "chat.json") is None
    assert processes.read_record(tmp_path / "missing.json") is None


def test_replaces_a_file_atomically_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    processes.replace_file(path, b"old")
    processes.replace_file(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]


def test_failed_replacement_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(IsADirectoryError):
        processes.replace_file(tmp_path / "plan.json", b"")
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_no_leftovers_of_a_replica_that_never_ran(paths: RunPaths) -> None:
    assert processes.leftovers(paths, "chat") == []
    assert processes.appliance_leftovers(paths) == []


def test_finds_the_session_of_a_dead_session_leader(nursery: Nursery, paths: RunPaths) -> None:
    first, child = nursery.start(PARENT, session=True)
    record(paths, "chat", first)
    assert processes.leftovers(paths, "chat") == sorted([first, int(child)])
    os.kill(first, signal.SIGKILL)
    reap(first)
    assert processes.leftovers(paths, "chat") == [int(child)]
    assert processes.appliance_leftovers(paths) == [int(child)]
    assert processes.terminate([int(child)], grace_s=5) == []


def test_ignores_another_process_with_the_recorded_pid(nursery: Nursery, paths: RunPaths) -> None:
    other_pid, _ = nursery.start(WAIT, session=True)
    first = record(paths, "chat", other_pid)
    for other in (
        replace(first, start_ticks=first.start_ticks - 1),
        replace(first, epoch="another boot"),
        replace(first, pid=0),
        replace(first, pid=1, start_ticks=0),
    ):
        processes.write_record(processes.replica_record(paths, "chat"), other)
        assert processes.leftovers(paths, "chat") == []


def test_finds_a_process_outside_the_session_by_its_marker(nursery: Nursery, paths: RunPaths) -> None:
    pid, _ = nursery.start(WAIT, session=True, environ={REPLICA_MARKER: f"{paths.run_dir}:chat"})
    assert processes.leftovers(paths, "chat") == [pid]
    assert processes.leftovers(paths, "cha") == []
    assert processes.appliance_leftovers(paths) == [pid]
    assert processes.appliance_leftovers(replace(paths, run_dir=f"{paths.run_dir}2")) == []


def test_finds_the_appliance_but_never_this_process(
    nursery: Nursery, paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, _ = nursery.start(WAIT, environ={APPLIANCE_MARKER: paths.run_dir})
    record(paths, "chat", os.getpid())
    monkeypatch.setenv(APPLIANCE_MARKER, paths.run_dir)
    assert processes.appliance_leftovers(paths) == [pid]


def test_sigterm_ends_a_normal_process(nursery: Nursery) -> None:
    first, second = (nursery.start(WAIT)[0] for _ in range(2))
    assert processes.terminate([first, second, 2**22 + 1], grace_s=10) == []
    status = os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert status is not None
    assert status.si_status == signal.SIGTERM


def test_sigkill_follows_after_the_grace(nursery: Nursery) -> None:
    pid, _ = nursery.start(STUBBORN)
    assert processes.terminate([pid], grace_s=0.1) == []
    status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert status is not None
    assert status.si_status == signal.SIGKILL


def test_process_without_permission_is_a_survivor(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _signum: int) -> None:
        raise PermissionError

    pid, _ = nursery.start(WAIT)
    with monkeypatch.context() as patch:
        patch.setattr("berth.processes.os.kill", refuse)
        patch.setattr("berth.processes._KILL_WAIT_S", 0.0)
        assert processes.terminate([pid], grace_s=0) == [pid]


def test_sweep_ends_processes_started_meanwhile(nursery: Nursery) -> None:
    first, late = (nursery.start(WAIT)[0] for _ in range(2))
    rounds = iter([[first], [late], []])
    assert processes.sweep(lambda: next(rounds), grace_s=5) == []
    for pid in (first, late):
        reap(pid)


def test_sweep_gives_up_on_processes_that_always_return() -> None:
    assert processes.sweep(lambda: [2**22 + 1], grace_s=0) == []


def test_adopts_orphans(nursery: Nursery) -> None:
    code = f"""
import os, subprocess, sys
from berth.processes import adopt_orphans
adopt_orphans()
parent = subprocess.Popen([sys.executable, "-c", {PARENT!r}], stdout=subprocess.PIPE, text=True)
child = int(parent.stdout.readline())
parent.kill()
parent.wait()
os.kill(child, 9)
print(os.waitpid(child, 0)[0] == child)
"""
    assert nursery.start(code)[1] == "True"


def test_goes_on_where_orphans_cannot_be_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_PR_SET_CHILD_SUBREAPER", 9999)  # unknown to the kernel, as the real one is to qemu
    processes.adopt_orphans()


FOLLOWER = """
import signal, subprocess, sys
subprocess.Popen([sys.executable, "-c", r'''
import os, signal, sys
from berth.plan import RunPaths
from berth.processes import follow_supervisor
def end(signum, frame):
    os.write(1, b"signalled\\n")  # print() cannot be entered twice
    sys.exit()
signal.signal(signal.SIGTERM, end)
follow_supervisor(RunPaths(run_dir=sys.argv[1], data_dir=sys.argv[1]))
os.write(1, b"up\\n")
signal.pause()
''', sys.argv[1]])
signal.pause()
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    arguments = [sys.executable, "-c", FOLLOWER, str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_follower_gets_the_signal_when_supervisord_dies(supervisor: "subprocess.Popen[str]") -> None:
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == "up\n"
    supervisor.kill()
    assert supervisor.stdout.readline() == "signalled\n"


def test_late_follower_gets_the_signal_at_once(nursery: Nursery, tmp_path: Path) -> None:
    paths = RunPaths(run_dir=str(tmp_path), data_dir=str(tmp_path))
    dead = replace(ProcessRecord.current(), pid=2**22 + 1)
    processes.write_record(processes.supervisor_record(paths), dead)
    code = f"""
from berth.plan import RunPaths
from berth.processes import follow_supervisor
follow_supervisor(RunPaths(run_dir={str(tmp_path)!r}, data_dir="/"))
print("not reached")
"""
    pid, line = nursery.start(code)
    status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert status is not None
    assert (line, status.si_status) == ("", signal.SIGTERM)


def test_failed_prctl_names_its_arguments() -> None:
    with pytest.raises(OSError, match=r"prctl\(-1, 0\)"):
        processes._prctl(-1, 0)


def test_works_with_a_restricted_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path, *_arguments: object, **_options: object) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(Path, "readlink", refuse)
    assert ProcessRecord.current() == ProcessRecord(pid=os.getpid(), start_ticks=0, epoch=" ")

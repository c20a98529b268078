"""Engines that are forked from a preloaded one: real processes, with a small Python program as the engine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from berth import processes
from berth.plan import EngineName, Keys, Launch, Plan, Preload
from berth.proc_stat import stat_of
from tests.fakes.plans import make_plan, make_replica

EXEC = [
    sys.executable,
    "-c",
    "import sys; from berth.boot.engine_exec import exec_replica; exec_replica(*sys.argv[1:])",
]
MODULE = """
import os, threading, time
IMPORTED_BY = os.getpid()
if os.environ.get("ENGINE_THREAD"):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
if os.environ.get("ENGINE_BROKEN"):
    raise RuntimeError("no libcudart.so")
"""
ENGINE = """
import json, os, random, signal, socket, sys, time
import slow_engine
umask = os.umask(0)
os.umask(umask)
told = {"argv": sys.argv, "env": dict(os.environ), "pid": os.getpid(), "session": os.getsid(0), "name": __name__}
told |= {"imported_by": slow_engine.IMPORTED_BY, "umask": umask, "folder": os.getcwd(), "random": random.random()}
told |= {"term": str(signal.getsignal(signal.SIGTERM)), "input": os.readlink("/proc/self/fd/0")}
print(json.dumps(told), flush=True)
if "fail-when-forked" in sys.argv and slow_engine.IMPORTED_BY != os.getpid():
    sys.exit("a fork of this is of no use")
if "load" in sys.argv:
    time.sleep(60)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    server.listen()
    print(json.dumps({"serves": True}), flush=True)
    while True:
        server.accept()[0].close()
"""


@dataclass(frozen=True, kw_only=True)
class Box:
    plan: Plan

    @property
    def run_dir(self) -> str:
        return self.plan.paths.run_dir

    @property
    def script(self) -> Path:
        assert self.plan.replicas[0].launch is not None
        return Path(self.plan.replicas[0].launch.argv[0])

    def state(self) -> dict[str, Any]:
        with suppress(OSError):
            said: dict[str, Any] = json.loads(self.plan.paths.preload_state("sim.preload").read_text())
            return said
        return {}

    @contextmanager
    def preloaded(self, **environ: str) -> Iterator["subprocess.Popen[bytes]"]:
        """It has imported the engine, or has said why not."""
        command = [*EXEC, self.run_dir, "sim.preload"]
        with subprocess.Popen(command, env=os.environ | environ, stderr=subprocess.PIPE, process_group=0) as process:
            wait_for(lambda: self.state().get("ready") or self.state().get("problem"))
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def engine(self, name: str = "chat", **environ: str) -> Iterator["Engine"]:
        command = [*EXEC, self.run_dir, name]
        process = subprocess.Popen(
            command,
            env=os.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        with process:
            try:
                yield Engine(leader=process)
            finally:
                process.kill()
                processes.sweep(lambda: processes.leftovers(self.plan.paths, name), 0)


@dataclass(frozen=True, kw_only=True)
class Engine:
    leader: "subprocess.Popen[bytes]"

    def told(self) -> dict[str, Any]:
        """The next line that it printed."""
        assert self.leader.stdout is not None
        said: dict[str, Any] = json.loads(self.leader.stdout.readline())
        return said

    def ended(self) -> tuple[int, str]:
        """The exit code, and what was written to standard error."""
        assert self.leader.stderr is not None
        return self.leader.wait(20), self.leader.stderr.read().decode()


def wait_for(holds: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_over(pid: int) -> bool:
    stat = stat_of(pid)
    return stat is None or not stat.alive


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return make_box(tmp_path)


def make_box(folder: Path, *arguments: str, script: str = f"#!{sys.executable}\n{ENGINE}") -> Box:
    """A plan on disk with two replicas, chat and code, and the engine that both are."""
    home, run_dir = folder / "home/bin", folder / "run"
    for path in (home, run_dir):
        path.mkdir(parents=True)
    (home / "python").symlink_to(sys.executable)
    (home / "slow_engine.py").write_text(MODULE)
    (home / "engine").write_text(script)
    (home / "engine").chmod(0o755)
    replicas = [
        replace(
            make_replica(
                name, launch=Launch(argv=(f"{home}/engine", f"{run_dir}/{name}.socket", *arguments), env={"OWN": name})
            ),
            url=f"unix:{run_dir}/{name}.socket",
        )
        for name in ("chat", "code")
    ]
    preload = Preload(
        name="sim.preload",
        engine=EngineName.SIM,
        like="chat",
        replicas=("chat", "code"),
        modules=("slow_engine", "not_there"),
        differing=(processes.REPLICA_MARKER, "OWN"),
        adds={"ADDED": "1"},
    )
    plan = replace(make_plan(str(run_dir), *replicas), preloads=(preload,))
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.keys.write_bytes(Keys().to_json())
    return Box(plan=plan)


def test_a_fork_sees_what_a_process_of_its_own_would_see(box: Box) -> None:
    with box.engine() as engine:
        plain = engine.told()
    with box.preloaded() as preload, box.engine() as engine, box.engine("code") as other:
        forked, second = engine.told(), other.told()
        assert (forked["imported_by"], plain["imported_by"]) == (preload.pid, plain["pid"])
        assert forked["pid"] == forked["session"] != engine.leader.pid
        assert forked["env"] == plain["env"] | {"ADDED": "1"}
        assert forked["term"] == "0"  # no handler; of the plain one, coverage may have set its own
        same = ("argv", "name", "umask", "folder", "input")
        assert {name: forked[name] for name in same} == {name: plain[name] for name in same}
        assert (second["env"]["OWN"], second["env"]["BERTH_REPLICA"]) == ("code", f"{box.run_dir}:code")
        assert forked["random"] != second["random"]
        assert box.state()["forks"] == 2
        assert box.plan.paths.preload_socket("sim.preload").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("sign", ["session", "marker"])
def test_a_fork_is_found_by_its_session_and_by_its_marker(box: Box, sign: str) -> None:
    with box.preloaded(), box.engine() as engine:
        pid = engine.told()["pid"]
        record = processes.forked_record(box.plan.paths, "chat")
        wait_for(record.exists)
        paths = box.plan.paths
        if sign == "marker":
            record.unlink()
        else:
            (folder := Path(f"{box.run_dir}-other/leaders")).mkdir(parents=True)
            (folder / record.name).write_bytes(record.read_bytes())
            paths = replace(paths, run_dir=str(folder.parent))  # whose marker it does not have
        assert pid in processes.leftovers(paths, "chat")
        assert pid in processes.appliance_leftovers(paths)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_engine_and_its_exit_code_comes_back(box: Box, number: signal.Signals) -> None:
    with box.preloaded(), box.engine() as engine:
        engine.told()
        assert engine.told() == {"serves": True}
        engine.leader.send_signal(number)
        code, said = engine.ended()
        assert code == (7 if number is signal.SIGTERM else -signal.SIGINT)
        assert "berth exec: forked from the preloaded sim, as process " in said


def test_an_engine_that_is_killed_looks_killed(box: Box) -> None:
    with box.preloaded(), box.engine() as engine:
        pid = engine.told()["pid"]
        assert engine.told() == {"serves": True}
        time.sleep(1)  # until that was seen
        os.kill(pid, signal.SIGKILL)
        assert engine.ended()[0] == -signal.SIGKILL


def test_the_engine_ends_with_its_leader(box: Box) -> None:
    with box.preloaded(), box.engine() as engine:
        pid = engine.told()["pid"]
        engine.leader.kill()
        wait_for(lambda: is_over(pid))


def test_an_engine_outlives_what_it_was_forked_from(box: Box) -> None:
    with box.preloaded() as preload, box.engine() as engine:
        pid = engine.told()["pid"]
        assert engine.told() == {"serves": True}
        preload.kill()
        preload.wait()
        time.sleep(0.2)
        assert engine.leader.poll() is None
        assert not is_over(pid)
        engine.leader.terminate()
        code, said = engine.ended()
        assert (code, is_over(pid)) == (1, True)
        assert "with an unknown code" in said
        with box.engine() as again:
            assert (told := again.told())["imported_by"] == told["pid"]
            again.leader.terminate()
            assert "started without the preloaded sim: Connection refused" in again.ended()[1]


def test_what_fails_as_a_fork_starts_by_itself_and_is_not_forked_again(tmp_path: Path) -> None:
    box = make_box(tmp_path, "fail-when-forked")
    with box.preloaded() as preload:
        with box.engine() as engine:
            first, second = engine.told(), engine.told()
            assert first["imported_by"] == preload.pid
            assert second["imported_by"] == second["pid"] == engine.leader.pid
            assert engine.told() == {"serves": True}
            engine.leader.terminate()
            code, said = engine.ended()
            assert code == 7
            assert "a fork of this is of no use" in said
            assert "started without the preloaded sim: the fork ended with 1" in said
        with box.engine() as engine:
            assert (told := engine.told())["imported_by"] == told["pid"]
            engine.leader.terminate()
            assert "without the preloaded sim: its last start in this way did not get ready" in engine.ended()[1]


def test_a_start_that_was_stopped_says_nothing_against_forks(tmp_path: Path) -> None:
    box = make_box(tmp_path, "load")
    with box.preloaded() as preload:
        for _ in range(2):
            with box.engine() as engine:
                assert engine.told()["imported_by"] == preload.pid
                engine.leader.terminate()
                assert engine.ended()[0] == -signal.SIGTERM


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"LANG": "xx"}, "its environment differs in LANG"),
        ({"OPENBLAS_NUM_THREADS": "3"}, "its environment differs in OPENBLAS_NUM_THREADS"),
    ],
)
def test_another_environment_starts_by_itself(box: Box, environ: dict[str, str], reason: str) -> None:
    with box.preloaded(), box.engine(**environ) as engine:
        told = engine.told()
        assert told["imported_by"] == told["pid"]
        assert {name: told["env"][name] for name in environ} == environ
        engine.leader.terminate()
        assert f"started without the preloaded sim: {reason}" in engine.ended()[1]


def test_an_engine_that_was_installed_again_is_imported_again(box: Box) -> None:
    with box.preloaded() as preload:
        os.utime(box.script, (1, 1))
        with box.engine() as engine:
            told = engine.told()
            assert told["imported_by"] == told["pid"]
            engine.leader.terminate()
            assert "the engine was installed again since it was imported" in engine.ended()[1]
        assert preload.wait(20) == 1  # which supervisord starts again


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"ENGINE_THREAD": "1"}, "it has 2 threads, and a fork would have one of them"),
        ({"ENGINE_BROKEN": "1"}, "the import failed: RuntimeError('no libcudart.so')"),
    ],
)
def test_what_cannot_be_forked_is_said_and_starts_by_itself(box: Box, environ: dict[str, str], reason: str) -> None:
    with box.preloaded(**environ) as preload:
        assert preload.wait(20) == 0
        assert preload.stderr is not None
        assert f"nothing is preloaded: {reason}" in preload.stderr.read().decode()
        assert box.state()["problem"] == reason
        with box.engine() as engine:
            told = engine.told()
            assert told["imported_by"] == told["pid"]
            engine.leader.terminate()
            assert f"started without the preloaded sim: {reason}" in engine.ended()[1]


def test_an_engine_that_is_no_python_program_is_left_alone(tmp_path: Path) -> None:
    box = make_box(tmp_path, script='#!/bin/sh\nif true; then echo "{}"; fi\n')
    with box.preloaded() as preload, box.engine() as engine:
        assert preload.wait(20) == 0
        assert engine.told() == {}
        code, said = engine.ended()
        assert code == 0
        assert "cannot be run by a fork: invalid syntax" in said


def test_it_gives_up_after_many_ends_of_its_own(box: Box) -> None:
    state = box.plan.paths.preload_state("sim.preload")
    state.write_text(json.dumps({"starts": 5}))
    with box.preloaded() as preload:
        assert preload.wait(20) == 0
        assert box.state()["problem"] == "it has ended 5 times"


def test_what_answers_too_late_forks_nothing(box: Box) -> None:
    with box.preloaded() as preload:
        preload.send_signal(signal.SIGSTOP)
        with box.engine() as engine:
            told = engine.told()
            assert told["imported_by"] == told["pid"] == engine.leader.pid
            assert engine.told() == {"serves": True}
            preload.send_signal(signal.SIGCONT)
            with box.engine("code") as other:
                assert other.told()["imported_by"] == preload.pid
            assert box.state()["forks"] == 1
            engine.leader.terminate()
            assert "started without the preloaded sim: timed out" in engine.ended()[1]


@pytest.mark.parametrize("text", [b"{}", b"[1]", b"{", b'{"replica": "chat", "environment": {}, "argv": []}'])
def test_what_it_does_not_understand_is_answered_and_forks_nothing(box: Box, text: bytes) -> None:
    with box.preloaded(), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(box.plan.paths.preload_socket("sim.preload")))
        client.sendall(text + b"\n")
        assert "it does not understand the request" in json.loads(client.makefile().readline())["refused"]
        assert box.state()["forks"] == 0


def test_starts_by_itself_where_nothing_is_preloaded(box: Box) -> None:
    with box.engine() as engine:
        told = engine.told()
        assert told["imported_by"] == told["pid"] == engine.leader.pid
        engine.leader.terminate()
        assert "started without the preloaded sim: it has not started yet" in engine.ended()[1]

"""`berth exec` in real processes: the engine is a small Python program that tells what it sees."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from berth import processes
from berth.boot import leader
from berth.errors import MachineError
from berth.plan import Launch, Plan
from tests.fakes.plans import make_plan, make_replica

TELL = """
import json, os, sys
ids = {"pid": os.getpid(), "session": os.getsid(0), "group": os.getpgrp(), "parent_group": os.getpgid(os.getppid())}
print(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ), **ids}))
"""
EXEC = [sys.executable, "-c", "import sys; from berth.boot.leader import exec_replica; exec_replica(*sys.argv[1:])"]


@pytest.fixture
def port() -> int:
    """One that nobody listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def written(run_dir: Path, launch: Launch, port: int) -> Plan:
    """A plan on disk with one replica, chat-sim."""
    plan = make_plan(str(run_dir), make_replica("chat-sim", launch=launch, port=port))
    run_dir.mkdir()
    plan.paths.plan.write_bytes(plan.to_json())
    return plan


def tell(*arguments: str, **fields: Any) -> Launch:
    return Launch(argv=(sys.executable, "-c", TELL, *arguments), **fields)


def execute(run_dir: Path, name: str = "chat-sim", environ: dict[str, str] | None = None) -> Any:
    """What the engine told. In a group of its own, as supervisord starts it."""
    output = subprocess.run(
        [*EXEC, str(run_dir), name],
        env=os.environ | (environ or {}),
        stdout=subprocess.PIPE,
        process_group=0,
        check=True,
    ).stdout
    return json.loads(output)


def test_the_engine_leads_a_session_of_its_own_and_leaves_its_record(tmp_path: Path, port: int) -> None:
    plan = written(tmp_path / "run", tell(), port)
    told = execute(tmp_path / "run")
    assert told["pid"] == told["session"] == told["group"]
    assert told["parent_group"] != told["group"]
    record = processes.read_record(processes.leader_record(plan.paths, "chat-sim"))
    assert record is not None
    assert record.pid == told["pid"]
    assert record.start_ticks > 0


def test_the_engine_does_not_inherit_that_python_ignores_sigpipe(tmp_path: Path, port: int) -> None:
    written(tmp_path / "run", Launch(argv=("sed", "-n", "s/^SigIgn://p", "/proc/self/status")), port)
    ignored = subprocess.run([*EXEC, str(tmp_path / "run"), "chat-sim"], stdout=subprocess.PIPE, check=True).stdout
    assert int(ignored, 16) & 1 << (signal.SIGPIPE - 1) == 0


def test_arguments_arrive_as_they_are(tmp_path: Path, port: int) -> None:
    arguments = ["--json={\"a\": 'b'}", "100%", "a ;b", "line\nbreak", "模型", ""]
    written(tmp_path / "run", tell(*arguments), port)
    assert execute(tmp_path / "run")["argv"] == arguments


def test_the_environment_keeps_nothing_of_berth_but_the_marker(tmp_path: Path, port: int) -> None:
    written(tmp_path / "run", tell(env={"HF_HOME": "/x", "PATH": "/usr/bin"}, unset=("VLLM_API_KEY",)), port)
    given = {"BERTH_API_KEYS": "secret", "SUPERVISOR_ENABLED": "1", "VLLM_API_KEY": "x", "HF_TOKEN": "hf", "LANG": "C"}
    env = execute(tmp_path / "run", environ=given)["env"]
    assert {name for name in env if name.startswith(("BERTH_", "SUPERVISOR_"))} == {"BERTH_REPLICA"}
    assert env["BERTH_REPLICA"] == f"{tmp_path / 'run'}:chat-sim"
    assert "VLLM_API_KEY" not in env
    assert (env["HF_TOKEN"], env["HF_HOME"], env["PATH"]) == ("hf", "/x", "/usr/bin")


def test_files_and_links_are_there_before_the_engine(tmp_path: Path, port: int) -> None:
    file, link = tmp_path / "a/options.yaml", tmp_path / "b/c/name"
    link.parent.mkdir(parents=True)
    link.symlink_to("/somewhere/else")
    written(tmp_path / "run", tell(files={str(file): "x: é\n"}, links={str(link): "/models/m"}), port)
    execute(tmp_path / "run")
    assert file.read_text(encoding="utf-8") == "x: é\n"
    assert link.readlink() == Path("/models/m")


def test_a_leader_of_a_session_stays_one(tmp_path: Path, port: int) -> None:
    written(tmp_path / "run", tell(), port)
    command = [*EXEC, str(tmp_path / "run"), "chat-sim"]
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, start_new_session=True, check=True).stdout)
    assert told["pid"] == told["session"]


def failing(run_dir: Path) -> tuple[int, str]:
    """Exit code and message of a `berth exec` that becomes no engine."""
    code = "import sys; from berth.cli import main; main(['exec', '--run-dir', sys.argv[1], 'chat-sim'])"
    done = subprocess.run(
        [sys.executable, "-c", code, run_dir], stderr=subprocess.PIPE, text=True, process_group=0, check=False
    )
    return done.returncode, done.stderr


def test_a_port_that_is_taken_has_its_own_exit_code(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        number = server.getsockname()[1]
        written(tmp_path / "run", tell(), number)
        code, message = failing(tmp_path / "run")
    assert code == 69
    assert f"127.0.0.1:{number}: Address already in use" in message


@pytest.mark.parametrize("mode", [None, 0o600])
def test_a_program_that_cannot_be_run_has_its_own_exit_code(tmp_path: Path, port: int, mode: int | None) -> None:
    program = tmp_path / "vllm"
    if mode:
        program.touch(mode)
    written(tmp_path / "run", Launch(argv=(str(program),)), port)
    code, message = failing(tmp_path / "run")
    assert code == 127
    assert message.startswith(f"berth exec: {str(program)!r} cannot be run: ")


def test_a_file_that_cannot_be_written_has_its_own_exit_code(tmp_path: Path, port: int) -> None:
    (tmp_path / "file").touch()
    written(tmp_path / "run", tell(files={str(tmp_path / "file/options.yaml"): ""}), port)
    code, message = failing(tmp_path / "run")
    assert code == 73
    assert "cannot be written" in message


def test_an_engine_is_told_when_its_supervisord_dies(tmp_path: Path, port: int) -> None:
    engine = (
        "import signal; signal.pthread_sigmask(0, [15]); print('up', flush=True); signal.sigwait([15]); print('told')"
    )
    written(tmp_path / "run", Launch(argv=(sys.executable, "-c", engine)), port)
    parent = (
        f"import subprocess, signal; subprocess.Popen({[*EXEC, str(tmp_path / 'run'), 'chat-sim']}); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "up\n"
        supervisor.send_signal(signal.SIGKILL)
        assert supervisor.stdout.readline() == "told\n"


@pytest.mark.parametrize("text", [None, b"", b"{", b'{"version": 99}'])
def test_a_plan_that_cannot_be_read_says_what_to_do(tmp_path: Path, text: bytes | None) -> None:
    if text is not None:
        (tmp_path / "plan.json").write_bytes(text)
    with pytest.raises(MachineError, match=r"plan.json' cannot be read: .*Start Berth with this run directory first"):
        leader.read_plan(str(tmp_path))


def test_only_replicas_that_berth_starts_can_be_executed(tmp_path: Path) -> None:
    plan = make_plan(str(tmp_path), make_replica("chat-remote", launch=None), make_replica(launch=tell()))
    (tmp_path / "plan.json").write_bytes(plan.to_json())
    with pytest.raises(MachineError, match=r"'chat-remote' is no replica that Berth starts. There are: chat-sim"):
        leader.exec_replica(str(tmp_path), "chat-remote")

"""Boots in processes of their own, with real supervisords; only control and the router are small stand-ins."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from berth import processes
from berth.boot import main
from berth.boot.config.settings import Settings
from berth.errors import MachineError, UnwritableError
from berth.ipc import reserved_file
from berth.plan import Keys, Launch, Plan, RunPaths
from berth.processes import APPLIANCE_MARKER, ProcessRecord, replica_record
from berth.records import audit, usage
from tests.fakes.api_keys import api_keys
from tests.fakes.plans import make_plan, make_replica
from tests.records.test_usage import plan_in, use

# Boots with argv[1] as the interpreter of control and the router.
BOOT = """
import sys
from berth.boot import supervisord_conf
render = supervisord_conf.render
supervisord_conf.render = lambda plan, *, python: render(plan, python=sys.argv[1])
from berth.cli.main import main
main(["boot"])
"""
# Takes the place of that interpreter: prints its environment and waits for SIGTERM, which `.stubborn` makes it ignore.
FAKE_PYTHON = f"""#!{sys.executable} -SE
import json, os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print(json.dumps({{"program": sys.argv[4], "pid": os.getpid(), "env": dict(os.environ)}}), flush=True)
while True:
    signal.sigwait([signal.SIGTERM])
    if not os.path.exists(__file__ + ".stubborn"):
        break
"""


class Appliance:
    """One run directory, booted as often as a test wants."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.paths = RunPaths(run_dir=str(folder / "run dir"), data_dir=str(folder / "data"))
        self.python = folder / "python"
        self.python.write_text(FAKE_PYTHON, encoding="utf-8")
        self.python.chmod(0o755)
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            self.port = int(server.getsockname()[1])
        self._stack = stack

    def environ(self, **more: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BERTH_", "HF_"))}
        return inherited | {
            "BERTH_MODELS": "chat=http://127.0.0.1:9/v1",
            "BERTH_HOST": "127.0.0.1",
            "BERTH_PORT": str(self.port),
            "BERTH_RUN_DIR": self.paths.run_dir,
            "BERTH_DATA": self.paths.data_dir,
            **more,
        }

    def boot(self, **more: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", BOOT, str(self.python)]
        process = subprocess.Popen(
            command, env=self.environ(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._stack.enter_context(process)
        self._stack.callback(self.end)
        return process

    def end(self) -> None:
        processes.sweep(lambda: processes.appliance_leftovers(self.paths), grace_s=5)

    def fails(self, **more: str) -> tuple[int, str]:
        """Exit code and words of a boot that must not start anything."""
        process = self.boot(**more)
        output, _ = process.communicate()
        assert not self.paths.supervisord_socket.exists()
        return process.returncode, output


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    with ExitStack() as stack:
        yield Appliance(tmp_path, stack)


def programs(output: IO[str] | None) -> tuple[dict[str, dict[str, str]], str]:
    """The environments of control and the router once both are up, and the other lines till then."""
    assert output is not None
    environments: dict[str, dict[str, str]] = {}
    lines = ""
    while len(environments) < 2:
        line = output.readline()
        if " | {" in line:
            seen = json.loads(line.partition(" | ")[2])
            environments[seen["program"]] = seen["env"]
        else:
            assert line, lines
            lines += line
    return environments, lines


def supervisor(paths: RunPaths) -> int:
    record = processes.read_record(processes.supervisor_record(paths))
    assert record
    return record.pid


@pytest.mark.slow
def test_boot_logs_its_plan_and_becomes_supervisord(appliance: Appliance) -> None:
    token = appliance.folder / "token"
    token.write_text("hf_secret")
    process = appliance.boot(BERTH_API_KEYS="key-of-alice", BERTH_LOG_LEVEL="info", HF_TOKEN_FILE=str(token))
    environments, said = programs(process.stdout)
    assert 'boot | model planned model=chat engines="openai http://127.0.0.1:9" reason="attached by its URL; ' in said
    assert f"url=http://127.0.0.1:{appliance.port}" in said
    assert appliance.paths.supervisord_pid.read_text() == f"{supervisor(appliance.paths)}\n"
    for environ in environments.values():
        assert {name for name in environ if name.startswith("BERTH_")} == {APPLIANCE_MARKER}
        assert environ[APPLIANCE_MARKER] == appliance.paths.run_dir
        assert "hf_secret" not in environ.values()
    written = Plan.from_json(appliance.paths.plan.read_bytes())
    assert [replica.name for replica in written.replicas] == ["chat-attached"]
    configured = {one.name: (one.value, one.origin) for one in written.configuration}
    assert configured["BERTH_API_KEYS"] == ("***", "environment")
    assert configured["HF_TOKEN"] == ("***", f"file {token}")
    assert configured["BERTH_QUEUE_SIZE"] == ("256", "default")
    keys = Keys.from_json(appliance.paths.keys.read_bytes())
    assert (len(keys.api_keys), keys.hub_token) == (1, "hf_secret")
    for path in (appliance.paths.plan, appliance.paths.keys, appliance.paths.supervisord_conf):
        assert path.stat().st_mode & 0o777 == 0o600
    assert "hf_secret" not in said + appliance.paths.plan.read_text() + appliance.paths.supervisord_conf.read_text()
    assert Path(appliance.paths.run_dir).stat().st_mode & 0o777 == 0o700
    process.terminate()
    assert process.wait() == 0
    assert processes.appliance_leftovers(appliance.paths) == []


@pytest.mark.slow
def test_second_boot_fails_while_the_first_runs(appliance: Appliance) -> None:
    first = appliance.boot()
    programs(first.stdout)
    second = appliance.boot()
    output, _ = second.communicate()
    assert second.returncode == 69
    assert f"already running (supervisord has pid {supervisor(appliance.paths)})" in output
    assert first.poll() is None
    first.terminate()
    assert first.wait() == 0
    third = appliance.boot()
    programs(third.stdout)


@pytest.mark.slow
def test_terminates_leftovers_of_a_killed_supervisord(appliance: Appliance) -> None:
    stubborn = appliance.python.with_name("python.stubborn")
    stubborn.touch()
    first = appliance.boot()
    programs(first.stdout)
    os.kill(supervisor(appliance.paths), signal.SIGKILL)
    assert first.wait() == 128 + signal.SIGKILL
    left = processes.appliance_leftovers(appliance.paths)
    assert len(left) == 2
    stubborn.unlink()
    second = appliance.boot()
    _, said = programs(second.stdout)
    assert f'terminating leftover processes pids="{" ".join(map(str, left))}"' in said
    assert not {*left} & {*processes.appliance_leftovers(appliance.paths)}


def test_stale_files_do_not_block_a_boot(appliance: Appliance) -> None:
    paths = appliance.paths
    paths.leaders.mkdir(parents=True)
    left = Path(paths.run_dir, "chat-vllm.sock")
    for path in (paths.supervisord_socket, left):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    for path in (paths.supervisord_pid, paths.state, paths.plan, paths.keys, paths.scoreboard, paths.supervisord_conf):
        path.write_text("{half")
    (paths.leaders / "chat.json").write_text("{half")
    Path(paths.run_dir, "lock").touch()
    processes.write_record(processes.supervisor_record(paths), replace(ProcessRecord.current(), start_ticks=1))
    programs(appliance.boot().stdout)
    assert not paths.state.exists()
    assert not left.exists()
    assert not list(paths.leaders.iterdir())


def test_port_in_use_fails_before_anything_is_written(appliance: Appliance) -> None:
    with closing(socket.create_server(("127.0.0.1", appliance.port))):
        code, output = appliance.fails()
    assert code == 69
    assert f"port: 127.0.0.1:{appliance.port} is in use by " in output
    assert not appliance.paths.plan.exists()


@pytest.mark.parametrize("variable", ["BERTH_RUN_DIR", "BERTH_DATA"])
def test_exit_code_of_a_directory_that_cannot_be_created(appliance: Appliance, variable: str) -> None:
    path = str(appliance.python / "below")
    code, output = appliance.fails(**{variable: path})
    assert code == 73
    assert f"{variable}={path!r} cannot be written as user {os.geteuid()}: {path!r}: Not a directory. Give" in output


def test_exit_code_of_an_invalid_configuration(appliance: Appliance) -> None:
    code, output = appliance.fails(BERTH_PORT="none", BERTH_PROT="1")
    assert code == 78
    assert "BERTH_PORT='none'" in output
    assert "did you mean BERTH_PORT" in output
    assert not Path(appliance.paths.run_dir).exists()


@pytest.mark.slow
def test_logs_preflight_warnings(appliance: Appliance) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))\n"
    command = [sys.executable, "-c", limited + BOOT, str(appliance.python)]
    with subprocess.Popen(command, env=appliance.environ(), stdout=subprocess.PIPE, text=True) as process:
        _, said = programs(process.stdout)
        process.terminate()
    assert "warning: open files: at most 1024 per process" in said


@pytest.mark.slow
def test_standard_output_may_be_a_socket(appliance: Appliance) -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", BOOT, str(appliance.python)]
    with theirs:
        process = subprocess.Popen(command, env=appliance.environ(), stdout=theirs.fileno())
    with process, ours, ours.makefile("r", encoding="utf-8") as lines:
        environments, _ = programs(lines)
        process.terminate()
        assert lines.read() == ""
    assert set(environments) == {"control", "router"}
    assert process.returncode == 0


def test_names_processes_that_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sweep(_find: Callable[[], list[int]], _grace_s: float) -> list[int]:
        return [41, 42]

    monkeypatch.setattr(processes, "sweep", sweep)
    with pytest.raises(MachineError, match="processes 41, 42 of a previous run"):
        main.end_leftovers(RunPaths(run_dir=str(tmp_path), data_dir=str(tmp_path)))


def test_live_record_counts_without_a_lock(tmp_path: Path) -> None:
    paths = RunPaths(run_dir=str(tmp_path), data_dir=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        stat = Path(f"/proc/{other.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        record = replace(ProcessRecord.current(), pid=other.pid, start_ticks=int(stat[19]))
        processes.write_record(processes.supervisor_record(paths), record)
        with pytest.raises(MachineError, match=f"supervisord has pid {other.pid}"):
            main.take_lock(paths)
        other.send_signal(signal.SIGKILL)
    os.close(main.take_lock(paths))


def test_lock_counts_without_a_record(tmp_path: Path) -> None:
    paths = RunPaths(run_dir=str(tmp_path), data_dir=str(tmp_path))
    lock = main.take_lock(paths)
    with pytest.raises(MachineError, match=r"already running\. Stop it, or set"):
        main.take_lock(paths)
    os.close(lock)


def test_unwritable_files_are_an_error(tmp_path: Path) -> None:
    plan = make_plan(str(tmp_path / "missing"))
    with pytest.raises(UnwritableError, match="BERTH_RUN_DIR="):
        main.write_files(plan, Keys())


def test_reserves_the_space_of_what_programs_write(tmp_path: Path) -> None:
    started = make_replica("chat-sim", launch=Launch(argv=("sim",)))
    plan = make_plan(str(tmp_path), started, make_replica("chat-remote", launch=None))
    paths = plan.paths
    paths.leaders.mkdir()
    for _ in range(2):  # a second boot finds what the first has left
        main.reserve_space(plan)
        used = {path: path.stat().st_blocks for path in tmp_path.rglob("*") if path.is_file()}
        assert all(used.values())
        for path in (paths.state, paths.control_state, replica_record(paths, "chat-sim")):
            reserved_file.write(path, b"{}")
            reserved_file.write(path, b"[]")
            assert json.loads(path.read_bytes()) == []
        assert sum(used.values()) == sum(path.stat().st_blocks for path in tmp_path.rglob("*") if path.is_file())


def test_space_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnwritableError, match="BERTH_RUN_DIR="):
        main.reserve_space(make_plan(str(tmp_path / "missing")))


def test_logs_engines_gpus_and_standby(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    on_cpu = make_replica("chat-sim", launch=Launch(argv=("sim",)))
    on_gpus = replace(on_cpu, name="chat-vllm", gpus=(0, 1), reason="why")
    plan = replace(make_plan(str(tmp_path), on_gpus, on_cpu), warnings=("mind the gap",))
    with caplog.at_level("INFO", "berth"):
        main.announce(plan)
    fields = caplog.records[0].__dict__["fields"]
    assert fields == {"model": "chat", "engines": "sim (GPU 0 1), sim (CPU)", "reason": "why", "standby": "cold"}
    assert caplog.messages == ["model planned", "mind the gap", "starting"]


def test_supervisord_gets_neither_settings_nor_keys() -> None:
    settings = Settings(models=(), run_dir="/run/x", api_keys=api_keys("secret"))
    secrets = ("BERTH_API_KEYS", "BERTH_API_KEYS_FILE", "HF_TOKEN", "HF_TOKEN_FILE", "HUGGING_FACE_HUB_TOKEN")
    environ = {"BERTH_PORT": "1", "PATH": "/bin", "HF_ENDPOINT": "http://hub", **dict.fromkeys(secrets, "s3cret")}
    environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "s3cret"}
    assert main.supervisor_environment(environ, settings) == {
        "PATH": "/bin",
        "HF_ENDPOINT": "http://hub",
        APPLIANCE_MARKER: "/run/x",
    }


def test_creates_cache_folders_and_rejects_those_of_other_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = (str(tmp_path / "cache/a/triton"), str(tmp_path / "cache/a/cuda"))
    plan = make_plan(
        str(tmp_path), make_replica(launch=Launch(argv=("x",), folders=folders)), make_replica(launch=None)
    )
    main.make_caches(plan)
    assert all(Path(folder).is_dir() for folder in folders)
    monkeypatch.setattr(os, "access", lambda path, _mode: path != folders[0])
    with pytest.raises(UnwritableError, match=f"BERTH_DATA=.*{folders[0]}.*Permission denied"):
        main.make_caches(plan)


def test_plan_writes_and_starts_nothing(tmp_path: Path) -> None:
    environ = {"BERTH_MODELS": "chat=http://127.0.0.1:9/v1", "BERTH_RUN_DIR": str(tmp_path / "run")}
    assert main.plan_from(environ).models[0].name == "chat"
    assert list(tmp_path.iterdir()) == []


def test_a_boot_is_in_the_audit_with_names_and_no_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = make_plan(str(tmp_path / "run"))
    plan = replace(plan, paths=replace(plan.paths, data_dir=str(tmp_path)))
    main.record_boot(plan, {"BERTH_API_KEYS": "s3cret", "BERTH_PORT": "1", "PATH": "/bin", "BERTH_HOST": ""})

    (entry,) = audit.last(str(tmp_path), 9)
    assert (entry.what, entry.details["variables"]) == ("boot", "BERTH_API_KEYS BERTH_PORT")
    audit.path(str(tmp_path)).unlink()
    audit.path(str(tmp_path)).mkdir()
    main.record_boot(plan, {})
    assert caplog.messages[-1] == "audit not written"


def test_usage_of_a_run_that_was_killed_is_written_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = plan_in(tmp_path)
    main.keep_usage(plan.paths)  # there was no run
    use(plan, 0, 0, 5, 7)
    main.keep_usage(plan.paths)
    assert [record.message for record in caplog.records] == ["usage of the previous run not written"]
    processes.replace_file(plan.paths.plan, plan.to_json())
    processes.replace_file(plan.paths.keys, Keys().to_json())
    main.keep_usage(plan.paths)
    (file,) = Path(plan.paths.data_dir, "berth", "usage").iterdir()
    assert [(one.key, one.prompt) for one in usage.lines(file)] == [("anonymous", 5)]

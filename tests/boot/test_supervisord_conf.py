"""supervisord's own parser reads the file back, and a real supervisord runs it."""

import itertools
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from supervisor.options import ServerOptions

from berth.boot.supervisord_conf import engine_section, engine_stop_s, render, supervisord_section
from berth.errors import ConfigError
from berth.plan import EngineName, Launch, Plan, Preload, Tracing
from berth.processes import channel
from tests.fakes.plans import make_plan, make_replica

ENGINE = Launch(argv=("engine", "--secret-free"))
NAMES = ["plain", "with blank", "100% %(here)s %%", "ünïcode 模型", "quotes ' \" \\", "semi;colon#hash", "-n"]


def parsed(plan: Plan, python: str = sys.executable) -> Any:
    """The options as supervisord has them after it has read the file."""
    plan.paths.logs.mkdir(parents=True, exist_ok=True)
    plan.paths.supervisord_conf.write_text(render(plan, python=python), encoding="utf-8")
    options = ServerOptions()
    options.realize(["-n", "-c", str(plan.paths.supervisord_conf)])
    return options


def programs(options: Any) -> dict[str, Any]:
    return {
        f"{group.name}:{program.name}": program
        for group in options.process_group_configs
        for program in group.process_configs
    }


@pytest.mark.parametrize("name", NAMES)
def test_supervisord_parses_the_configuration(tmp_path: Path, name: str) -> None:
    run_dir = str(tmp_path / name)
    plan = make_plan(run_dir, make_replica("chat-sim", launch=ENGINE))
    options = parsed(plan)
    berth = [sys.executable, "-P", "-m", "berth"]
    found = programs(options)
    assert {key: shlex.split(program.command) for key, program in found.items()} == {
        "control:control": [*berth, "control", "--run-dir", run_dir],
        "router:router": [*berth, "router", "--run-dir", run_dir],
        "bench:bench": [*berth, "bench", "--run-dir", run_dir, "order"],
        "engine:chat-sim": [*berth, "exec", "--run-dir", run_dir, "chat-sim"],
    }
    assert found["engine:chat-sim"].stdout_logfile == f"{run_dir}/logs/chat-sim.log"
    assert options.pidfile == f"{run_dir}/supervisord.pid"
    assert options.logfile == f"{run_dir}/logs/supervisord.log"
    assert [config["file"] for config in options.server_configs] == [f"{run_dir}/supervisor.sock"]


@pytest.mark.parametrize("name", ["a ;b", "a #b", "a\nb", "a\tb", "a\x7fb", "a\udcffb"])
def test_rejects_a_path_that_supervisord_cannot_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="BERTH_RUN_DIR"):
        render(make_plan(f"{tmp_path}/{name}"), python=sys.executable)


def test_services_always_run_and_engines_wait_for_control(tmp_path: Path) -> None:
    found = programs(parsed(make_plan(str(tmp_path), make_replica("chat-sim", launch=ENGINE))))
    for name in ("control:control", "router:router"):
        service = found[name]
        assert service.autostart
        assert service.autorestart
        assert service.startretries > 10**5
        assert service.stdout_logfile == f"{tmp_path}/logs/{service.name}.fifo"
        assert service.startsecs == 10
        assert service.stdout_logfile_maxbytes == 0
    engine = found["engine:chat-sim"]
    assert (engine.autostart, engine.startsecs, engine.startretries) == (False, 0, 0)
    assert (engine.stdout_logfile_maxbytes, engine.stdout_logfile_backups) == (20 * 2**20, 3)
    assert all(program.redirect_stderr and program.killasgroup for program in found.values())
    assert not engine.stopasgroup
    bench = found["bench:bench"]
    assert (bench.autostart, bench.autorestart, bench.startsecs, bench.startretries) == (False, False, 0, 0)


def test_stops_router_then_engines_then_control(tmp_path: Path) -> None:
    options = parsed(make_plan(str(tmp_path), make_replica("chat-sim", launch=ENGINE)))
    order = sorted(options.process_group_configs, key=lambda group: -group.priority)
    assert [group.name for group in order] == ["bench", "router", "engine", "control"]


def test_attached_replicas_have_no_program(tmp_path: Path) -> None:
    options = parsed(make_plan(str(tmp_path), make_replica("chat-remote", launch=None)))
    assert set(programs(options)) == {"control:control", "router:router"}


@pytest.mark.parametrize(
    ("drain_s", "wanted_s", "given_s"), [(10, 30, 2), (10, 1.5, 2), (2, 30, 10), (2, 5, 5), (600, 30, 2), (0, 0, 0)]
)
def test_engine_stop_timeout_fits_into_the_shutdown(
    tmp_path: Path, drain_s: float, wanted_s: float, given_s: int
) -> None:
    replica = make_replica("chat-sim", launch=ENGINE, stop_timeout_s=wanted_s)
    plan = make_plan(str(tmp_path), replica, drain_timeout_s=drain_s)
    assert engine_stop_s(plan, replica) == given_s
    assert programs(parsed(plan))["engine:chat-sim"].stopwaitsecs == given_s
    assert programs(parsed(plan))["router:router"].stopwaitsecs == drain_s + 1


# Stands in for the interpreter of the programs: says which program it was started as, and waits.
FAKE_PYTHON = f"""#!{sys.executable} -SE
import pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print(sys.argv[4], "up", flush=True)
for started in pathlib.Path(__file__).parent.glob(f"{{sys.argv[4]}}.started"):
    started.write_bytes(b"")
signal.sigwait([signal.SIGTERM])
print(sys.argv[4], "stopped", flush=True)
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    script = tmp_path / "python"
    script.write_text(FAKE_PYTHON, encoding="utf-8")
    script.chmod(0o755)
    return script


@contextmanager
def running(plan: Plan, python: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A supervisord whose programs all speak into one FIFO, and the end where they are heard."""
    plan.paths.logs.mkdir(parents=True)
    plan.paths.supervisord_conf.write_text(render(plan, python=str(python)), encoding="utf-8")
    os.mkfifo(channel(plan.paths, "control"))
    os.link(channel(plan.paths, "control"), channel(plan.paths, "router"))
    listener = os.open(channel(plan.paths, "control"), os.O_RDWR)
    with subprocess.Popen(
        [sys.executable, "-X", "utf8", "-m", "supervisor.supervisord", "-n", "-c", plan.paths.supervisord_conf]
    ) as process:
        yield process, listener
        process.terminate()
    os.close(listener)


def read_until(read: Callable[[], bytes], wanted: set[bytes]) -> bytes:
    """What comes until every wanted line has come."""
    text = b""
    while not all(line in text for line in wanted):
        text += read()
    return text


UP = {b"control up", b"router up"}
STOPPED = {b"control stopped", b"router stopped"}


@pytest.mark.slow
def test_supervisord_passes_output_through(tmp_path: Path, python: Path) -> None:
    plan = make_plan(str(tmp_path / "run % dir"), make_replica("chat-sim", launch=ENGINE))
    with running(plan, python) as (process, listener):
        text = read_until(lambda: os.read(listener, 4096), UP)
        process.terminate()
        assert process.wait() == 0
        text += read_until(lambda: os.read(listener, 4096), STOPPED)
    assert b"CRIT" not in text
    assert b"exec up" not in text
    assert text.index(b"router stopped") < text.index(b"control stopped")
    assert not plan.paths.supervisord_socket.exists()
    assert not plan.paths.supervisord_pid.exists()


@pytest.mark.slow
def test_kills_a_program_that_ignores_sigterm(tmp_path: Path, python: Path) -> None:
    python.write_text(FAKE_PYTHON.replace("sigwait([signal.SIGTERM])", "pause()"), encoding="utf-8")
    with running(make_plan(str(tmp_path / "run"), drain_timeout_s=0), python) as (process, listener):
        read_until(lambda: os.read(listener, 4096), UP)
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.slow
def test_backs_off_from_programs_that_fail_at_start(tmp_path: Path, python: Path) -> None:
    python.write_text("#!/bin/sh\necho $4 up; exit 69\n", encoding="ascii")
    starts: dict[bytes, list[float]] = {b"control up": [], b"router up": []}
    with running(make_plan(str(tmp_path / "run")), python) as (_, listener):
        while min(map(len, starts.values())) < 4:
            for line in os.read(listener, 4096).splitlines():
                starts[line].append(time.monotonic())
    for moments in starts.values():
        pauses = [after - before for before, after in itertools.pairwise(moments[:4])]
        assert [pause > least for pause, least in zip(pauses, (0.9, 1.9, 2.9), strict=True)] == [True] * 3


def test_sections_of_supervisord_and_of_an_engine() -> None:
    replica = make_replica("chat", launch=ENGINE)
    plan = make_plan("/run/berth", replica)

    engine, daemon = engine_section(plan, replica, "python3"), supervisord_section(plan)

    assert engine["command"] == "python3 -P -m berth exec --run-dir /run/berth chat"
    assert (engine["autostart"], engine["autorestart"], engine["stopasgroup"]) == ("false", "false", "false")
    assert engine["stopwaitsecs"] == engine_stop_s(plan, replica)
    assert (daemon["nodaemon"], daemon["pidfile"]) == ("true", str(plan.paths.supervisord_pid))


def test_tracer_runs_where_traces_are_wanted(tmp_path: Path) -> None:
    plan = make_plan(str(tmp_path), make_replica("chat-sim", launch=ENGINE))
    traced = replace(plan, tracing=Tracing(endpoint="http://c/v1/traces"))
    assert "tracer:tracer" not in programs(parsed(plan))
    tracer = programs(parsed(traced))["tracer:tracer"]
    assert shlex.split(tracer.command)[-3:] == ["tracer", "--run-dir", str(tmp_path)]
    assert engine_stop_s(traced, plan.replicas[0]) <= engine_stop_s(plan, plan.replicas[0])


def test_an_attendant_is_a_program_next_to_its_engine() -> None:
    launch = Launch(argv=("engine",))
    replica = replace(make_replica("big-vllm", launch=launch), attendant=launch)
    conf = render(make_plan("/run/berth", replica), python="/python")
    assert "[program:big-vllm.ray]\ncommand=/python -P -m berth exec --run-dir /run/berth big-vllm.ray\n" in conf
    assert "programs=big-vllm,big-vllm.ray\n" in conf


def test_what_engines_are_forked_from_starts_with_berth_and_ends_after_them() -> None:
    preload = Preload(
        name="vllm.preload", engine=EngineName.VLLM, like="chat-sim", replicas=(), modules=(), differing=()
    )
    plan = make_plan("/run/berth", make_replica("chat-sim", launch=Launch(argv=("x",))))
    conf = render(replace(plan, preloads=(preload,)), python="/python")
    section = conf.partition("[program:vllm.preload]\n")[2].partition("\n\n")[0].split("\n")
    assert {
        "command=/python -P -m berth exec --run-dir /run/berth vllm.preload",
        "autostart=true",
        "autorestart=unexpected",
        "priority=150",
        "stdout_logfile=/run/berth/logs/vllm.preload.log",
    } < set(section)
    assert "vllm.preload" not in conf.partition("[group:engine]")[2]

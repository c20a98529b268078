"""What goes on while others die: processes killed, engines that fail for good, memory that runs out, and the stop."""

import json
import re
import signal

import pytest

from tests.e2e.appliance import sim_models
from tests.image.container import TINY, WITH_MODEL, Container
from tests.image.docker import docker

pytestmark = [pytest.mark.image, pytest.mark.timeout(180)]

SIM = "m=simulated@sim"
KILLED_BY_SIGKILL = 137
STOP_S = 15.0
TOO_MUCH = "the container's memory limit of 1.0 GiB was reached"
NAMED_LINE = re.compile(r"\d\d:\d\d:\d\d (boot|control|router|m-sim) \| ")


def engine_pid(container: Container) -> int:
    return container.find("sim", "--dialect").pid


def restarts(container: Container) -> int:
    return int(container.inspect()["RestartCount"])


def test_replaces_a_killed_router_worker(berth: Container) -> None:
    router, engine = berth.find("router"), engine_pid(berth)
    (worker, *_) = [process for process in berth.processes() if process.parent == router.pid]
    berth.kill(worker)
    berth.wait(lambda: berth.chat("m").status_code == 200 and not berth.alive(worker))
    assert engine_pid(berth) == engine


def test_replaces_a_killed_router(berth: Container) -> None:
    """Its workers end too, after what they have begun."""
    router, engine = berth.find("router"), engine_pid(berth)
    old = [process for process in berth.processes() if router.pid in (process.pid, process.parent)]
    berth.kill(router)
    berth.wait(lambda: not any(map(berth.alive, old)) and berth.chat("m").status_code == 200)
    assert engine_pid(berth) == engine


def test_killed_control_is_replaced_and_recovers_state(berth: Container) -> None:
    control, engine = berth.find("control"), engine_pid(berth)
    berth.kill(control)
    assert berth.chat("m").status_code == 200
    berth.wait(lambda: berth.find("control").pid != control.pid and control_answers(berth))
    assert engine_pid(berth) == engine


def test_restarts_a_killed_engine(berth: Container) -> None:
    engine = berth.find("sim", "--dialect")
    berth.kill(engine)
    berth.wait(lambda: engine_pid(berth) != engine.pid and berth.chat("m").status_code == 200)
    assert berth.replicas()["m-sim"]["restarts"] >= 1
    berth.wait(lambda: "SIGKILL from outside" in berth.logs())


@pytest.mark.parametrize("program", ["supervisor.supervisord", "berth.boot.foreground"])
def test_killed_root_process_stops_the_container_and_the_next_start_serves(program: str) -> None:
    with Container(SIM) as container:
        container.wait_ready()
        container.kill(container.find(program))
        assert container.wait_ended() == KILLED_BY_SIGKILL
        container.start()
        assert container.wait_ready().chat("m").status_code == 200


def test_engine_that_never_starts_does_not_restart_the_container() -> None:
    models = f"{sim_models('bad', 'vllm --fault exit-at-start=3')}\n{sim_models('good', 'sglang')}"
    options = ("--restart", "unless-stopped")
    with Container(models, options=options, BERTH_RESTART_LIMIT="2") as container:
        container.wait(lambda: container.replicas()["bad-sim"]["status"] == "failed")
        answer = container.chat("bad")
        assert answer.status_code == 503
        assert "bad" in answer.json()["error"]["message"]
        container.wait(lambda: container.chat("good").status_code == 200)
        assert container.running()
        assert restarts(container) == 0


@pytest.mark.usefixtures("fake_gpus")
def test_oom_kills_only_the_engine_and_is_the_reported_cause() -> None:
    settings = "{env: {FAKE_ENGINE_EATS: /tmp/eat}}"
    models = f"greedy: {{source: {TINY}, engines: [sglang], sglang: {settings}}}\n{sim_models('modest', 'vllm')}"
    options = ("--gpus", "all", "--env", "FAKE_GPUS=1", "--memory", "1g", "--memory-swap", "1g", *WITH_MODEL)
    with Container(models, options=options) as container:
        container.wait_ready()
        others = {process.pid for process in container.processes() if "sglang" not in process.argv[-1]}
        eater = container.find("/opt/engines/sglang/bin/sglang")
        container.execute("touch", "/tmp/eat")  # noqa: S108 - in the container
        container.wait(lambda: not container.alive(eater))
        container.execute("rm", "-f", "/tmp/eat")  # noqa: S108
        # Not in the status: the engine may have been started again by now.
        container.wait(lambda: TOO_MUCH in container.logs())
        assert TOO_MUCH in container.execute("berth", "events")
        assert container.chat("modest").status_code == 200
        container.wait_ready()
        assert others - {eater.pid} <= {process.pid for process in container.processes()}
        assert restarts(container) == 0


def test_stop_finishes_running_requests() -> None:
    with Container(sim_models("m", "vllm --itl 30ms"), BERTH_DRAIN_TIMEOUT="8s") as container:  # it lasts 3 s
        container.wait_ready()
        with container.stream("m") as lines:
            next(lines)
            docker("kill", "--signal", "TERM", container.name)
            assert list(lines)[-1] == "data: [DONE]"
        assert container.wait_ended() == 0


def test_stop_under_load_is_in_time_and_ends_every_stream_explicitly() -> None:
    with Container(sim_models("m", "vllm --itl 100ms")) as container:
        container.wait_ready()
        with container.stream("m", max_tokens=4000, ignore_eos=True) as lines:
            next(lines)
            assert container.stop() < STOP_S
            *_, last = lines
        assert '"error"' in last
        assert container.wait_ended() == 0


def test_stops_engines_that_ignore_sigterm() -> None:
    with Container(sim_models("m", "vllm --fault hang-on-sigterm orphan")) as container:
        container.wait_ready()
        assert container.stop() < STOP_S
        assert container.wait_ended() == 0


def test_every_log_line_is_json_with_json_format() -> None:
    with Container(SIM, BERTH_LOG_FORMAT="json") as container:
        container.wait_ready()
        container.kill(container.find("control"), signal.SIGKILL)
        container.wait(lambda: control_answers(container))
        container.stop()
        rows = [json.loads(line) for line in container.logs().splitlines()]
    assert {"boot", "control", "router", "m-sim"} <= {row["program"] for row in rows}


def test_status_and_logs_are_commands_in_the_container(berth: Container) -> None:
    assert "m-sim" in berth.execute("berth", "status")
    assert "Uvicorn running" in berth.execute("berth", "logs", "m-sim")


def test_every_log_line_has_its_programs_name(berth: Container) -> None:
    assert [line for line in berth.logs().splitlines() if not NAMED_LINE.match(line)] == []


def control_answers(container: Container) -> bool:
    return container.get("/status").json()["control"]["stale"] is False

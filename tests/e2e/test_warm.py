"""`standby: warm`: the second engine is loaded first, sleeps while the first serves, and takes its place in seconds."""

from collections.abc import Callable

import psutil
import pytest

from tests.e2e.appliance import Appliance, end, sim_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ORDERS = [("vllm", "sglang"), ("sglang", "vllm")]
FIRST, SECOND = "m-sim", "m-sim-2"
LOADED = "Application startup complete"


def warm(first: str, second: str) -> str:
    return sim_models("m", first, second, standby="warm")


def is_as(first: str, second: str, berth: Appliance) -> Callable[[], bool]:
    return lambda: [one["status"] for one in berth.replicas().values()] == [first, second]


def settled(berth: Appliance) -> Appliance:
    return berth.wait(is_as("ready", "asleep", berth))


def pid(berth: Appliance, name: str) -> int:
    return next(one.pid or 0 for one in berth.state().replicas if one.name == name)


def kill(berth: Appliance, name: str) -> None:
    end(psutil.Process(pid(berth, name)))


def loads(berth: Appliance, name: str) -> int:
    return berth.paths.replica_log(name).read_text().count(LOADED)


def served_by(berth: Appliance) -> str:
    answer = berth.chat("m")
    return answer.headers["x-berth-replica"] if answer.status_code == 200 else ""


@pytest.mark.parametrize(("first", "second"), ORDERS)
def test_warm_standby_serves_without_loading(first: str, second: str) -> None:
    with Appliance(warm(first, second)) as berth:
        settled(berth)
        assert served_by(berth) == FIRST
        sleeper = pid(berth, SECOND)
        kill(berth, FIRST)
        berth.wait(lambda: served_by(berth) == SECOND)
        assert (pid(berth, SECOND), loads(berth, SECOND)) == (sleeper, 1)
        berth.wait(is_as("standby", "ready", berth))
        replicas = berth.replicas()
        assert "SIGKILL" in replicas[FIRST]["reason"]
        assert replicas[SECOND]["reason"].startswith(f"took over from {FIRST}")


@pytest.mark.parametrize(("first", "second"), ORDERS)
def test_restarted_control_knows_sleeping_engines(first: str, second: str) -> None:
    with Appliance(warm(first, second)) as berth:
        sleeper = pid(settled(berth), SECOND)
        before = berth.state().control_pid
        end(psutil.Process(before))
        berth.wait(lambda: berth.state().control_pid != before)
        settled(berth)
        kill(berth, FIRST)
        berth.wait(lambda: served_by(berth) == SECOND)
        assert (pid(berth, SECOND), loads(berth, SECOND)) == (sleeper, 1)


def test_restarted_control_without_state_queries_vllm() -> None:
    with Appliance(warm("sglang", "vllm")) as berth:
        sleeper = pid(settled(berth), SECOND)
        control = psutil.Process(berth.state().control_pid)
        control.suspend()  # or it would write the file again
        berth.paths.state.unlink()
        end(control)
        berth.wait(lambda: berth.state().control_pid != control.pid)
        settled(berth)
        assert (pid(berth, SECOND), loads(berth, SECOND)) == (sleeper, 1)
        assert served_by(berth) == FIRST


def test_failed_sleep_makes_a_cold_standby() -> None:
    with Appliance(warm("vllm", "sglang --fault sleep-fails")) as berth:
        berth.wait(is_as("ready", "standby", berth))
        assert (
            "could not be put to sleep: /release_memory_occupation returned 500" in berth.replicas()[SECOND]["reason"]
        )
        assert pid(berth, SECOND) == 0
        kill(berth, FIRST)
        berth.wait(lambda: served_by(berth) == FIRST)
        assert loads(berth, FIRST) == 2


@pytest.mark.parametrize("second", ["vllm", "sglang"])
def test_failed_wake_restarts_the_engine(second: str) -> None:
    with Appliance(warm("vllm", f"{second} --fault wake-fails")) as berth:
        settled(berth)
        kill(berth, FIRST)
        berth.wait(lambda: served_by(berth) == SECOND)
        assert loads(berth, SECOND) == 2
        assert "could not be woken" in berth.output()


def test_death_while_asleep_makes_a_cold_standby() -> None:
    with Appliance(warm("vllm", "sglang"), BERTH_RESTART_LIMIT="2") as berth:
        settled(berth)
        kill(berth, SECOND)
        berth.wait(is_as("ready", "standby", berth))
        assert served_by(berth) == FIRST
        assert berth.replicas()[SECOND]["reason"].startswith("died in its sleep: killed by SIGKILL")
        kill(berth, FIRST)
        berth.wait(lambda: berth.replicas()[FIRST]["restarts"] == 1)
        berth.wait(is_as("ready", "standby", berth))
        kill(berth, FIRST)
        berth.wait(lambda: served_by(berth) == SECOND)
        assert berth.replicas()[FIRST]["status"] == "failed"


def test_woken_standby_yields_only_after_permanent_failure() -> None:
    with Appliance(warm("vllm", "sglang"), BERTH_RESTART_LIMIT="2") as berth:
        settled(berth)
        kill(berth, FIRST)
        berth.wait(is_as("standby", "ready", berth))
        kill(berth, SECOND)
        berth.wait(lambda: berth.replicas()[SECOND]["restarts"] == 1)
        berth.wait(is_as("standby", "ready", berth))
        kill(berth, SECOND)
        berth.wait(is_as("ready", "failed", berth))
        assert served_by(berth) == FIRST

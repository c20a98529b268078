"""Programs that exist and do nothing, and a full run directory: what works goes on, and what does not is replaced."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.appliance import Appliance, end, sim_models
from tests.fakes.plain_http import NO_AUTHORITIES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

REPLACED_S = 30.0  # five seconds on an idle machine; rounds that come late do not count
PAUSE_S = 8.0


@pytest.fixture(scope="module")
def shared() -> Iterator[Appliance]:
    with Appliance(sim_models("m", "vllm", "sglang", standby="hot"), BERTH_WORKERS="2") as appliance:
        yield appliance


@pytest.fixture
def berth(shared: Appliance) -> Appliance:
    """Complete again, whatever was stopped before."""
    if shared.started().poll() is not None:
        shared.start()
    shared.wait(lambda: all(one["status"] == "ready" for one in shared.replicas().values()))
    return shared.wait(lambda: len(workers(shared)) == 2)


def workers(berth: Appliance) -> list[psutil.Process]:
    found = []
    for one in berth.find("router").children():
        with suppress(psutil.NoSuchProcess):  # it ends just now
            found += [one] if "router" in one.cmdline() else []
    return found


def answers(berth: Appliance) -> bool:
    """On a connection of its own: one of any worker."""
    try:
        return httpx.get(f"{berth.url}/health", timeout=2, trust_env=False, verify=NO_AUTHORITIES).status_code == 200
    except httpx.TransportError:
        return False


def test_a_stopped_worker_is_replaced(berth: Appliance) -> None:
    first, stopped = workers(berth)
    stopped.suspend()
    berth.wait(lambda: f"new connections steered away silent={stopped.pid}" in berth.output(), REPLACED_S)
    berth.wait(lambda: not stopped.is_running() and len(workers(berth)) == 2, REPLACED_S)
    berth.wait(lambda: all(answers(berth) for _ in range(20)))
    assert first in workers(berth)
    assert f"silent router worker killed pid={stopped.pid}" in berth.output()


def test_a_stopped_control_is_replaced_and_the_engines_stay(berth: Appliance) -> None:
    control, before = berth.find("control"), berth.replicas()
    control.suspend()
    end(berth.find("sim", "--dialect", "vllm"))
    berth.wait(lambda: not control.is_running(), REPLACED_S)
    expected = {name: one["restarts"] + (one["dialect"] == "vllm") for name, one in before.items()}
    berth.wait(lambda: {name: one["restarts"] for name, one in berth.replicas().items()} == expected)
    berth.wait(lambda: all(one["status"] == "ready" for one in berth.replicas().values()))
    assert f"silent control killed pid={control.pid}" in berth.output()
    assert berth.get("/ready").json()["control"]["stale"] is False


def test_stopped_main_processes_are_resumed(berth: Appliance) -> None:
    processes = [berth.find("router"), berth.find("supervisor.supervisord"), psutil.Process(berth.started().pid)]
    for process in processes:
        process.suspend()
    berth.wait(lambda: all(one.status() != psutil.STATUS_STOPPED for one in processes), REPLACED_S)
    (worker, _) = workers(berth)
    end(worker)
    berth.wait(lambda: len(workers(berth)) == 2)


def test_a_pause_of_the_whole_container_replaces_nothing(berth: Appliance) -> None:
    before = sorted(berth.processes(), key=lambda process: process.pid)
    for process in before:
        process.suspend()
    time.sleep(PAUSE_S)
    for process in before:
        process.resume()
    time.sleep(PAUSE_S)
    assert sorted(berth.processes(), key=lambda process: process.pid) == before
    assert berth.chat("m").status_code == 200


def test_a_stop_does_not_wait_for_stopped_programs(berth: Appliance) -> None:
    workers(berth)[0].suspend()
    berth.find("control").suspend()
    berth.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_with_a_full_run_directory_everything_is_still_restarted(small_disk: Path) -> None:
    models = sim_models("m", "vllm", "sglang", standby="hot")
    with Appliance(models, BERTH_RUN_DIR=str(small_disk / "run")) as berth:

        def all_ready() -> bool:
            return all(one["status"] == "ready" for one in berth.replicas().values())

        berth.wait(all_ready)
        with pytest.raises(OSError, match="No space left"):
            (small_disk / "fill").write_bytes(bytes(2**23))
        berth.wait(lambda: berth.get("/status").json()["run_directory"]["full"])
        requests = berth.get("/metrics").text.count("berth_")
        for words in (("sim", "--dialect", "sglang"), ("control",), ("router",), ("sim", "--dialect", "vllm")):
            killed = berth.find(*words)
            end(killed, signal.SIGKILL)
            berth.wait(lambda: berth.chat("m").status_code == 200)
            berth.wait(lambda words=words, pid=killed.pid: berth.find(*words).pid != pid)  # type: ignore[misc]
            berth.wait(all_ready)
        assert berth.get("/metrics").text.count("berth_") >= requests
        response = berth.http.post("/v1/responses", json={"model": "m", "input": "Hello"})
        assert response.status_code == 200
        assert "run directory full" in berth.output()
        (small_disk / "fill").unlink()
        berth.wait(lambda: not berth.get("/status").json()["run_directory"]["full"])
        assert "run directory has space again" in berth.output()

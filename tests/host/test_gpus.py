"""The inventory against a real shared library that the loader finds under NVML's name, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from berth.host.gpus import Occupant, named, visible
from berth.plan import DriverState, Gpu, GpuInventory
from tests.fakes.nvml.build import build, environment

PROGRAM = """
import msgspec, os, sys
from berth.host.gpus import inventory
sys.stdout.buffer.write(msgspec.json.encode(inventory(os.environ)))
"""
OCCUPANTS = """
import msgspec, sys
from berth.host.gpus import occupants
sys.stdout.buffer.write(msgspec.json.encode(occupants()))
"""
GIB = 2**30


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml")).parent


def look(variables: dict[str, str]) -> GpuInventory:
    environ = {key: value for key, value in os.environ.items() if "VISIBLE_DEVICES" not in key} | variables
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environ, capture_output=True, timeout=15, check=True)
    return msgspec.json.decode(done.stdout, type=GpuInventory)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_lists_every_gpu(driver: Path, count: int) -> None:
    found = look(environment(driver, count=count, total_mib=81920, used_mib=1024, name="NVIDIA H100 80GB HBM3"))

    assert (found.state, found.reason) == (DriverState.OK, "")
    assert (found.driver_version, found.cuda_version) == ("580.65.06", "13.0")
    assert len(found.gpus) == count
    assert found.gpus[-1] == Gpu(
        index=count - 1,
        uuid=f"GPU-{count - 1:08}-0000-0000-0000-000000000000",
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=80 * GIB,
        memory_free_bytes=79 * GIB,
        compute_capability="9.0",
    )


def test_reports_sizes_and_mig_per_gpu(driver: Path) -> None:
    found = look(environment(driver, count=3, total_mib=[81920, 24576], mig=[1, 0, -1]))

    assert [gpu.memory_total_bytes // GIB for gpu in found.gpus] == [80, 24, 24]
    assert [gpu.mig for gpu in found.gpus] == [True, False, False]


UNUSABLE: list[tuple[dict[str, Any], DriverState, str]] = [
    ({"init_error": 9}, DriverState.NO_DRIVER, "the driver is not loaded or its devices are missing: run nvidia-smi"),
    ({"init_error": 4}, DriverState.FAILED, "/dev/nvidia"),
    ({"init_error": 18}, DriverState.FAILED, "reboot the host"),
    ({"init_error": 999}, DriverState.FAILED, "nvidia-smi"),
    ({"count_error": 999}, DriverState.FAILED, "nvidia-smi"),
    ({"count": 0}, DriverState.NO_GPUS, "--gpus all"),
    ({"count": 1, "broken": 0}, DriverState.FAILED, "GPU 0 is ignored"),
    ({"count": 1, "memory_error": 999}, DriverState.FAILED, "GPU 0 is ignored"),
    ({"count": 1, "memory_error": 4, "mig": 1}, DriverState.FAILED, "MIG is on, and no instance of it is visible here"),
    ({"count": 1, "memory_error": 4, "mig": -1}, DriverState.FAILED, "check `nvidia-smi`"),
]


@pytest.mark.parametrize(("shape", "state", "advice"), UNUSABLE)
def test_unusable_driver_is_a_state_with_advice(
    driver: Path, shape: dict[str, Any], state: DriverState, advice: str
) -> None:
    found = look(environment(driver, **shape))

    assert found.state == state
    assert advice in found.reason
    assert found.gpus == ()


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_missing_or_corrupt_library_means_no_driver(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "libnvidia-ml.so.1").write_bytes(content)

    found = look({"LD_LIBRARY_PATH": str(tmp_path)})

    assert found.state == DriverState.NO_DRIVER
    assert "NVIDIA container toolkit" in found.reason


def query_occupants(variables: dict[str, str]) -> dict[int, tuple[Occupant, ...]]:
    environ = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", OCCUPANTS], env=environ, capture_output=True, timeout=15, check=True)
    return msgspec.json.decode(done.stdout, type=dict[int, tuple[Occupant, ...]])


def test_names_the_processes_of_a_mig_instance(driver: Path) -> None:
    found = query_occupants(environment(driver, mig=1, instances=20480, processes="100:4711:30720:vllm"))

    assert found == {0: (), 100: (Occupant(pid=4711, name="vllm", used_bytes=30 * GIB),)}


def test_names_the_processes_that_nvml_knows(driver: Path) -> None:
    shape = environment(driver, count=3, processes="0:4711:30720:/usr/bin/python3 1:8:512: 0:9:-1:vllm", broken=2)

    found = query_occupants(shape)

    assert found == {
        0: (
            Occupant(pid=4711, name="python3", used_bytes=30 * GIB),
            Occupant(pid=9, name="vllm", used_bytes=None),
        ),
        1: (Occupant(pid=8, name="", used_bytes=GIB // 2),),
        2: (),
    }
    assert [str(one) for one in (*found[0], *found[1])] == [
        "python3 (pid 4711, 30.0 GiB)",
        "vllm (pid 9)",
        "a process (pid 8, 512 MiB)",
    ]


@pytest.mark.parametrize("shape", [{"init_error": 9}, {"count_error": 999}])
def test_unusable_driver_reports_no_processes(driver: Path, shape: dict[str, Any]) -> None:
    assert query_occupants(environment(driver, **shape)) == {}


def test_a_broken_gpu_does_not_hide_the_others(driver: Path) -> None:
    found = look(environment(driver, count=3, broken=1))

    assert (found.state, [gpu.index for gpu in found.gpus]) == (DriverState.OK, [0, 2])
    assert found.reason.startswith("GPU 1 is ignored")


def test_unknown_versions_do_not_hide_the_gpus(driver: Path) -> None:
    found = look(environment(driver, count=1, version_error=999))

    assert (found.driver_version, found.cuda_version, len(found.gpus)) == ("", "", 1)


def test_replaces_an_undecodable_name(driver: Path) -> None:
    variables = environment(driver, count=1)
    environ = os.environb | {os.fsencode(k): os.fsencode(v) for k, v in variables.items()}
    environ[b"FAKE_NVML_NAME"] = b"\xff\xfe"

    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environ, capture_output=True, timeout=15, check=True)

    assert msgspec.json.decode(done.stdout, type=GpuInventory).gpus[0].name == "unknown GPU"


def test_gpu_with_shared_memory_reports_the_hosts(driver: Path) -> None:
    found = look(environment(driver, count=1, memory_error=3))

    assert found.gpus[0].memory_total_bytes == psutil.virtual_memory().total
    assert found.gpus[0].unified


def test_applies_cuda_visible_devices(driver: Path) -> None:
    found = look({**environment(driver, count=4), "CUDA_VISIBLE_DEVICES": "2,0", "NVIDIA_VISIBLE_DEVICES": "3"})

    assert [gpu.index for gpu in found.gpus] == [0, 2]


@pytest.mark.parametrize("value", ["MIG-377e0049-554c-540b-93c6-d0976f8426cb", "'mig-GPU-aa/1/0'"])
def test_a_mig_instance_that_is_not_here_is_explained(driver: Path, value: str) -> None:
    found = look({**environment(driver, count=2, mig=[1, 0]), "CUDA_VISIBLE_DEVICES": value})

    assert (found.state, found.gpus) == (DriverState.NO_GPUS, ())
    assert "names a MIG instance that is not here" in found.reason


MIG_INSTANCES: dict[str, Any] = {"count": 2, "mig": [1, 0], "instances": [40960, 0, 10240]}


def test_mig_instances_are_gpus_of_their_own(driver: Path) -> None:
    found = look(environment(driver, **MIG_INSTANCES))

    assert [(gpu.index, gpu.part_of, gpu.memory_total_bytes // GIB) for gpu in found.gpus] == [
        *((100, 0, 40), (102, 0, 10)),
        (1, None, 80),
    ]
    assert found.gpus[1].uuid == "MIG-00000000-0000-0000-0000-000000000002"
    assert not any(gpu.mig for gpu in found.gpus)


def test_an_instance_alone_in_a_container_can_be_used(driver: Path) -> None:
    found = look(environment(driver, count=1, memory_error=4, mig=1, instances=20480))

    assert (found.state, [gpu.index for gpu in found.gpus]) == (DriverState.OK, [100])


@pytest.mark.parametrize(
    ("value", "indexes"), [("MIG-00000000-0000-0000-0000-000000000002", [102]), ("0", [100]), ("1", [1])]
)
def test_cuda_visible_devices_names_instances(driver: Path, value: str, indexes: list[int]) -> None:
    found = look({**environment(driver, **MIG_INSTANCES), "CUDA_VISIBLE_DEVICES": value})

    assert [gpu.index for gpu in found.gpus] == indexes


def test_quotes_of_an_env_file_are_ignored(driver: Path) -> None:
    found = look({**environment(driver, count=4), "CUDA_VISIBLE_DEVICES": '"2,0"'})

    assert [gpu.index for gpu in found.gpus] == [0, 2]


def gpu(index: int, uuid: str) -> Gpu:
    return Gpu(index=index, uuid=uuid, name="x", memory_total_bytes=1, memory_free_bytes=1, compute_capability="9.0")


TWO = GpuInventory(state=DriverState.OK, gpus=(gpu(0, "GPU-aa11"), gpu(1, "GPU-aa22")))


@pytest.mark.parametrize(
    ("value", "indexes"),
    [
        (None, [0, 1]),
        ("0,1", [0, 1]),
        (" 1 ", [1]),
        ("GPU-aa22", [1]),
        ("gpu-AA1", [0]),
        ("1,7,0", [1]),
        ("GPU-aa", []),
        ("-1", []),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_reads_cuda_visible_devices_as_cuda_does(value: str | None, indexes: list[int]) -> None:
    left = visible(TWO, value)

    assert [gpu.index for gpu in left.gpus] == indexes
    assert left.state == (DriverState.OK if indexes else DriverState.NO_GPUS)
    assert indexes or repr(value) in left.reason


def test_cuda_visible_devices_adds_no_gpu() -> None:
    nothing = GpuInventory(state=DriverState.NO_DRIVER, reason="no driver")

    assert visible(nothing, "0") == nothing


def test_finds_a_gpu_by_index_or_uuid() -> None:
    assert named(TWO.gpus, 1) == named(TWO.gpus, "1") == named(TWO.gpus, "GPU-aa22") == TWO.gpus[1]
    assert named(TWO.gpus, 5) is None

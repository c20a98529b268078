"""What simulated engines hold of a GPU, as a simulated driver sees it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from berth.sim.gpu_memory import GpuMemory
from tests.fakes.nvml.build import environment
from tests.sim.harness import running, send_request

READ = """
import pynvml
pynvml.nvmlInit()
for index in range(2):
    print(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).used >> 20)
"""


def held(folder: Path) -> str:
    (path,) = folder.glob(f"{os.getpid()}-*")
    return path.read_text(encoding="ascii")


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_asleep_it_holds_less(dialect: str, tmp_path: Path) -> None:
    calls = {
        "vllm": ("/sleep?level=1", "/wake_up"),
        "sglang": ("/release_memory_occupation", "/resume_memory_occupation"),
    }[dialect]
    memory = {"gpu_folder": str(tmp_path), "gpu_memory_mib": {0: 9000, 1: 800}}
    faults = ("gpu-residue=700", "gpu-release=2s", "gpu-leak=64")
    with running(dialect, *faults, can_sleep=True, **memory) as server:
        server.engine.gpu_memory.hold()
        assert held(tmp_path) == f"0 {os.getpid()} 9000 2000 64\n1 {os.getpid()} 800 2000 64\n"
        send_request(server.port, calls[0], {})
        assert held(tmp_path) == f"0 {os.getpid()} 700 2000 64\n1 {os.getpid()} 700 2000 64\n"
        send_request(server.port, calls[1], {})
        assert "9000" in held(tmp_path)


def test_without_a_folder_nothing_is_written() -> None:
    GpuMemory(taken_mib={0: 1}).hold()


@pytest.mark.skipif(shutil.which("cc") is None, reason="the fake NVML library is made with cc")
def test_the_driver_counts_what_processes_hold_and_releases_it_slowly(tmp_path: Path) -> None:
    folder = tmp_path / "held"
    folder.mkdir()
    environ = os.environ | environment(tmp_path, count=2, used_mib=500, held_in=folder)

    def read() -> list[int]:
        done = subprocess.run([sys.executable, "-c", READ], env=environ, capture_output=True, text=True, check=True)
        return [int(word) for word in done.stdout.split()]

    GpuMemory(folder=str(folder), taken_mib={0: 1000, 1: 20}).hold()
    (folder / "stranger").write_text("1 0 7 0 0\n")
    assert read() == [1500, 527]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (folder / str(ended.pid)).write_text(f"0 {ended.pid} 4000 600000 100\n")
    (folder / f"{os.getpid()}-1").write_text(f"0 {os.getpid()} 9000 0 0\n")  # of one that had the number before
    first = read()[0]
    assert 5400 < first <= 5500
    os.utime(folder / f"{ended.pid}.ended", (1, 1))
    assert read()[0] == 1600

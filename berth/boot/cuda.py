"""Which CUDA an engine's environment is built for, and which driver that takes."""

from pathlib import Path

# The first NVIDIA driver for Linux that runs this major version of CUDA, minor versions within it included.
LEAST_DRIVERS = {12: "525", 13: "580"}
RUNTIME = "lib/python3*/*-packages/nvidia_cuda_runtime*.dist-info"  # of CUDA 12: nvidia_cuda_runtime_cu12


def runtime_version(home: str) -> str:
    """The newest CUDA runtime in the environment, "13.0.96", by its metadata; "" where there is none to be seen."""
    found = [path.name.removesuffix(".dist-info").rpartition("-")[2] for path in Path(home).glob(RUNTIME)]
    return max(found, key=version, default="")


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def driver_for(runtime: str) -> str:
    """The driver in words."""
    major = version(runtime)[0]
    least = LEAST_DRIVERS.get(major)
    return f"{least} or newer" if least else f"one for CUDA {major}"

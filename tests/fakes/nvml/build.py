"""A fake NVIDIA driver: compiles nvml.c into libnvidia-ml.so.1, and gives the environment that makes a process see it.

The library is found by the dynamic loader, so it works for a process started with that environment, not for this one.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


def build(folder: Path) -> Path:
    """Compiles the library into `folder` (once) and gives its path."""
    library = folder / "libnvidia-ml.so.1"
    if not library.exists():
        source = Path(__file__).with_name("nvml.c")
        half = folder / f"{library.name}.{os.getpid()}"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", half, source],
            check=True,
            timeout=15,
        )
        half.replace(library)  # another test process may load it at this moment
    return library


def environment(  # one argument per thing that a driver can say
    folder: Path,
    *,
    count: int = 1,
    total_mib: int | Sequence[int] = 81920,
    used_mib: int | Sequence[int] = 512,
    name: str = "NVIDIA Fake 80GB",
    capability: str = "9.0",
    mig: int | Sequence[int] = 0,
    instances: int | Sequence[int] = 0,
    init_error: int = 0,
    count_error: int = 0,
    version_error: int = 0,
    memory_error: int = 0,
    processes: str = "",
    driver_version: str = "580.65.06",
    cuda: int = 13000,
    broken: int | None = None,
    broken_error: int = 15,
    held_in: Path | None = None,
) -> dict[str, str]:
    """Variables to add to a process's environment so that it sees `count` GPUs. Builds the library if need be."""
    shape: dict[str, object] = {
        "COUNT": count,
        "TOTAL_MIB": _listed(total_mib),
        "USED_MIB": _listed(used_mib),
        "NAME": name,
        "CAPABILITY": capability,
        "MIG": _listed(mig),
        "INSTANCES": _listed(instances),
        "INIT_ERROR": init_error,
        "COUNT_ERROR": count_error,
        "VERSION_ERROR": version_error,
        "MEMORY_ERROR": memory_error,
        "PROCESSES": processes,
        "DRIVER": driver_version,
        "CUDA": cuda,
        "BROKEN": "" if broken is None else broken,
        "BROKEN_ERROR": broken_error,
        "FOLDER": held_in or "",
    }
    variables = {f"FAKE_NVML_{key}": str(value) for key, value in shape.items()}
    return {"LD_LIBRARY_PATH": str(build(folder).parent), **variables}


def _listed(value: int | Sequence[int]) -> str:
    return str(value) if isinstance(value, int) else ",".join(map(str, value))

"""The container, its limits and its GPUs, as they are now."""

import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from berth import __version__
from berth.host import cgroup
from berth.host.gpus import inventory
from berth.host.installed_engines import installed
from berth.plan import RunPaths

_GPU_QUERY_S: Final = 20.0
_CGROUP_FILES: Final = (
    *("memory.max", "memory.high", "memory.current", "memory.swap.max", "memory.events", "cpu.max", "cpu.stat"),
    *("pids.max", "pids.current", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
_LIMITS: Final = ("RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_NPROC", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_AS")


def versions(engine_home: str) -> dict[str, Any]:
    return {
        "berth": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "image": _os_release(),
        "engines": {engine: msgspec.to_builtins(one) for engine, one in installed(engine_home).items()},
        "packages": dict(sorted((one.name, one.version) for one in distributions() if one.name)),
    }


def container(paths: RunPaths) -> dict[str, Any]:
    """What the container may use, and what is left of it."""
    memory = psutil.virtual_memory()
    folders = {"run": paths.run_dir, "data": paths.data_dir, "shared memory": "/dev/shm", "temporary": "/tmp"}  # noqa: S108 - only named
    return {
        "uid": os.getuid(),
        "cpus": {"allowed": cgroup.available_cpus(), "of the host": os.cpu_count(), "load": os.getloadavg()},
        "memory": {"available": cgroup.available_memory(), "of the host": memory.total, "free": memory.available},
        "groups": {str(folder): _files_of(folder) for folder in (*cgroup.folders(cgroup.ROOT, ""),)},
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS},
        "folders": {name: _folder(Path(folder)) for name, folder in folders.items()},
    }


def gpus(environ: Mapping[str, str]) -> str:
    """What NVML says, and what `nvidia-smi` says where it is installed."""
    found = msgspec.json.format(msgspec.json.encode(inventory(environ)), indent=2).decode()
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program is None:
        return f"{found}\n\nnvidia-smi is not installed here\n"
    try:
        said = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=_GPU_QUERY_S, check=False)
    except subprocess.TimeoutExpired:
        return f"{found}\n\nnvidia-smi does not respond within {_GPU_QUERY_S:g} s\n"
    return f"{found}\n\n{said.stdout}{said.stderr}"


def _folder(path: Path) -> dict[str, Any]:
    try:
        usage = shutil.disk_usage(path)
        mode = f"{path.stat().st_mode & 0o7777:o}"
    except OSError as error:
        return {"path": str(path), "error": str(error.strerror)}
    return {"path": str(path), "total": usage.total, "free": usage.free, "mode": mode, "owner": path.stat().st_uid}


def _files_of(folder: Path) -> dict[str, str]:
    files = (folder / name for name in _CGROUP_FILES)
    return {file.name: file.read_text().strip() for file in files if os.access(file, os.R_OK)}


def _os_release() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""

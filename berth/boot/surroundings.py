"""What a plan depends on beside the settings: this machine's GPUs, memory, disk, free ports, engines, and the hub."""

import hashlib
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from berth.boot.checkpoint import ModelInfo
from berth.boot.choice import InstalledEngine, installed
from berth.boot.directory import describe_directory
from berth.boot.gpus import inventory
from berth.boot.settings import Settings
from berth.boot.specs import ModelSpec
from berth.errors import PortInUseError
from berth.plan import EngineName, GpuInventory

FIRST_PORT, LAST_PORT = 20000, 29999  # below Linux's ephemeral ports: nobody is given one of these by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """All that `make_plan` may know of the world; tests make their own."""

    inventory: GpuInventory
    installed: Mapping[EngineName, InstalledEngine]
    memory_available_bytes: int
    disk_free_bytes: int | None  # where models are downloaded to; None: not known
    python: str
    now: int  # Unix seconds
    describe: Callable[[ModelSpec], ModelInfo]
    free_ports: Callable[[int], list[int]]


def look(settings: Settings, environ: Mapping[str, str]) -> Surroundings:
    """This machine, now."""
    return Surroundings(
        inventory=inventory(environ),
        installed=installed(settings.engine_home),
        memory_available_bytes=available_memory(),
        disk_free_bytes=free_disk(settings.data_dir),
        python=sys.executable,
        now=int(time.time()),
        describe=lambda spec: describe(settings, spec),
        free_ports=lambda count: free_ports(settings.run_dir, count),
    )


def describe(settings: Settings, spec: ModelSpec) -> ModelInfo:
    """From the model's own small files, wherever they are; nothing large is downloaded."""
    if Path(spec.source).is_absolute():
        return describe_directory(spec.source)
    from berth.boot import hub  # noqa: PLC0415 - takes half a second, which only hub models should cost

    where = hub.Hub(
        cache_dir=str(Path(settings.data_dir, "huggingface", "hub")), offline=settings.offline, token=settings.hf_token
    )
    return hub.describe(spec.source, spec.revision, where)


def free_ports(run_dir: str, count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on now. Each run directory starts looking elsewhere, so that two appliances that
    boot at the same time do not pick the same ones, and one that boots again picks those it had.
    """
    span = LAST_PORT - FIRST_PORT + 1
    start = int.from_bytes(hashlib.sha256(run_dir.encode()).digest()[:4], "big") % span
    found: list[int] = []
    for step in range(span):
        if len(found) == count:
            return found
        port = FIRST_PORT + (start + step) % span
        if _is_free(host, port):
            found.append(port)
    raise PortInUseError(f"fewer than {count} ports between {FIRST_PORT} and {LAST_PORT} are free on {host}")


def available_memory(root: Path = Path("/")) -> int:
    """Memory that new processes can have: the machine's, or what a control group leaves. `root` holds sys/."""
    groups = root / "sys/fs/cgroup"
    limits = [
        _left(groups / "memory.max", groups / "memory.current"),
        _left(groups / "memory/memory.limit_in_bytes", groups / "memory/memory.usage_in_bytes"),
    ]
    return min([int(psutil.virtual_memory().available), *(limit for limit in limits if limit is not None)])


def free_disk(folder: str) -> int | None:
    """Of the file system that holds `folder`, or that would hold it. None: it cannot be told."""
    path = Path(folder)
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _left(limit: Path, usage: Path) -> int | None:
    """None for a group without a limit ("max", or no such file)."""
    try:
        return max(int(limit.read_text()) - int(usage.read_text()), 0)
    except (OSError, ValueError):
        return None


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just been closed is free
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True

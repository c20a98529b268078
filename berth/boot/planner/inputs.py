"""What a plan depends on beside the settings: this machine's GPUs, memory, disk, free ports, engines, and the hub."""

import hashlib
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.checkpoints.sources import Sources
from berth.boot.config.models import ModelSpec
from berth.boot.config.settings import Settings
from berth.errors import PortInUseError
from berth.host.cgroup import available_memory
from berth.host.disk import free_disk
from berth.host.gpus import Occupant, inventory, occupants
from berth.host.installed_engines import InstalledEngine, installed, runtime_version
from berth.plan import EngineName, GpuInventory

FIRST_PORT, LAST_PORT = 20000, 29999  # below Linux's ephemeral ports: nobody is given one of these by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo:
    """All that `make_plan` may know of the world; tests make their own."""

    inventory: GpuInventory
    installed: Mapping[EngineName, InstalledEngine]
    memory_available_bytes: int
    disk_free_bytes: int | None  # where models are downloaded to; None: not known
    python: str
    now: int  # Unix seconds
    describe: Callable[[ModelSpec], ModelInfo]
    free_ports: Callable[[int], list[int]]
    download_bytes: Callable[[], int] = lambda: 0  # of all that was described: what the disk must still take
    cuda_runtime: Callable[[str], str] = lambda _home: ""  # that an engine's environment is built for; "": not known
    occupants: Callable[[], Mapping[int, Sequence[Occupant]]] = dict  # processes on each GPU that NVML knows of


def look(settings: Settings, environ: Mapping[str, str]) -> HostInfo:
    """This machine, now."""
    sources = Sources(settings)
    return HostInfo(
        inventory=inventory(environ),
        installed=installed(settings.engine_home),
        memory_available_bytes=available_memory(),
        disk_free_bytes=free_disk(settings.data_dir),
        python=sys.executable,
        now=int(time.time()),
        describe=sources.describe,
        free_ports=lambda count: free_ports(settings.run_dir, count),
        download_bytes=sources.download_bytes,
        cuda_runtime=runtime_version,
        occupants=occupants,
    )


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


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just been closed is free
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True

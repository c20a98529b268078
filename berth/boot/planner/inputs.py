"""Host facts the planner needs besides the settings: GPUs, memory, disk, free ports, installed engines, the hub."""

import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from berth.boot.catalogue.lookup import Catalogue
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.checkpoints.sources import Sources
from berth.boot.config.models import ModelSpec
from berth.boot.config.settings import Settings
from berth.boot.planner.attached.address import Address
from berth.boot.planner.attached.discovery import discover_all, unasked
from berth.boot.planner.boxes import ask_boxes
from berth.dialects.attached.detection import Discovery
from berth.errors import PortInUseError
from berth.host.builds import own_build, packages
from berth.host.cgroup import available_memory
from berth.host.disk import free_disk
from berth.host.engine_code import can_trace, has_ray, knows_tokenizer, knows_type
from berth.host.gpus import Occupant, inventory, occupants
from berth.host.installed_engines import InstalledEngine, installed, runtime_version
from berth.host.interfaces import Interface, interfaces
from berth.host.net import bind_error
from berth.host.own_address import reaches
from berth.plan import Box, EngineName, GpuInventory, Nodes
from berth.records.measured import Measured, read
from berth.records.results import BenchResult, all_of
from berth.records.revisions import History
from berth.records.revisions import read as read_history

FIRST_PORT, LAST_PORT = 20000, 29999  # below Linux's ephemeral ports, which the kernel assigns


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo:
    """All that `make_plan` knows about the host and the hub; tests make their own."""

    inventory: GpuInventory
    installed: Mapping[EngineName, InstalledEngine]
    memory_available_bytes: int
    disk_free_bytes: int | None  # where models are downloaded to; None: unknown
    python: str
    now: int  # Unix seconds
    describe: Callable[[ModelSpec], ModelInfo]
    free_ports: Callable[[int], list[int]]
    download_bytes: Callable[[], int] = lambda: 0  # still to be downloaded for all described models
    cuda_runtime: Callable[[str], str] = lambda _home: ""  # of an engine's environment, by its home; "": unknown
    occupants: Callable[[], Mapping[int, Sequence[Occupant]]] = dict  # processes on each GPU, by its index
    results: Callable[[], Sequence[BenchResult]] = tuple  # of `berth bench`, the newest last
    measured: Measured = field(default_factory=Measured)  # what engines took at earlier starts
    history: History = field(default_factory=History)  # of the models' revisions
    reaches: Callable[[str, str], bool] = lambda _host, _listen: False  # see host.own_address
    knows_type: Callable[[str, str], bool | None] = lambda _home, _type: None  # see host.engine_code
    knows_tokenizer: Callable[[str, str, str], bool | None] = lambda _home, _type, _class: None
    can_trace: Callable[[str], bool] = lambda _home: False  # the same
    has_ray: Callable[[str], bool] = lambda _home: False  # the same
    packages: Callable[[str], str] = lambda _home: ""  # see host.builds
    own_build: Callable[[], str] = lambda: ""
    interfaces: Callable[[], tuple[Interface, ...]] = tuple  # of the network
    ask_boxes: Callable[[Nodes, str], tuple[Box, ...]] = lambda _nodes, _key: ()  # what other boxes say
    catalogue: Catalogue = field(default_factory=Catalogue)
    discover: Callable[[Sequence[Address]], Sequence[Discovery]] = unasked  # what attached servers say, in order


def inspect_host(settings: Settings, environ: Mapping[str, str]) -> HostInfo:
    """This host, now."""
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
        measured=read(settings.data_dir),
        history=read_history(settings.data_dir),
        results=lambda: all_of(settings.data_dir),
        reaches=reaches,
        knows_type=knows_type,
        knows_tokenizer=knows_tokenizer,
        can_trace=can_trace,
        has_ray=has_ray,
        packages=packages,
        own_build=own_build,
        interfaces=interfaces,
        ask_boxes=ask_boxes,
        catalogue=sources.catalogue,
        discover=discover_all,
    )


def free_ports(run_dir: str, count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports without a listener. The search starts at a port derived from the run directory, so that two appliances that
    boot at the same time choose different ports, and one that boots again chooses the same.
    """
    span = LAST_PORT - FIRST_PORT + 1
    start = int.from_bytes(hashlib.sha256(run_dir.encode()).digest()[:4], "big") % span
    found: list[int] = []
    for step in range(span):
        if len(found) == count:
            return found
        port = FIRST_PORT + (start + step) % span
        if bind_error(host, port) is None:
            found.append(port)
    raise PortInUseError(f"fewer than {count} ports between {FIRST_PORT} and {LAST_PORT} are free on {host}")

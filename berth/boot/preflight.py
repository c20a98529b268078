"""Is this machine fit to start: port, directories, disk, memory, limits. Checks give Findings and change nothing.

`require` turns what failed into the exception with the right exit code.
"""

import contextlib
import errno
import os
import resource
import socket
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from berth.boot.config.settings import Settings
from berth.errors import MachineError, PortInUseError, UnwritableError
from berth.host.cgroup import available_memory
from berth.host.installed_engines import driver_for, version
from berth.plan import GpuInventory, Replica
from berth.units import size

GIB = 1 << 30
PROBE_BYTES = 1 << 20  # written for a test: a file system that is full to the last block still makes empty files
LEAST_DATA_BYTES = 2 * GIB  # compiler caches and logs, even where no model is downloaded
LEAST_RUN_BYTES = 128 << 20  # logs: three engines' of 80 MB at most, usually far less
# Shared memory for replicas on several GPUs. NCCL's segments are about 33 MB for each neighbour of a GPU, and a ring
# has two; with less it ends the engine ("unable to allocate shared memory"). Docker gives 64 MiB. What engines send
# between their processes comes on top, and grows with the requests.
LEAST_SHM_PER_GPU_BYTES = 64 << 20
WANTED_SHM_PER_GPU_BYTES = 512 << 20
LEAST_LOCKED_BYTES = 64 << 20
LEAST_FILES = 4096
WANTED_FILES = 65_536
LEAST_CUDA = (13, 0)  # what the engines are built for


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class What(StrEnum):
    PORT = "port"
    RUN_DIR = "run directory"
    DATA_DIR = "data directory"
    SHM = "shared memory"
    RAM = "memory"
    FILES = "open files"
    LOCKED = "locked memory"
    DRIVER = "driver"
    ENGINE = "engine"
    MODEL = "model files"
    CONFIG = "configuration"
    PLAN = "plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found. `remedy` says what to do, unless all is well."""

    level: Level
    what: What
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.detail}{'. ' if self.remedy else ''}{self.remedy}"


ERRORS: dict[What, type[MachineError]] = {
    What.PORT: PortInUseError,
    What.RUN_DIR: UnwritableError,
    What.DATA_DIR: UnwritableError,
}


def require(findings: Iterable[Finding]) -> None:
    """Raises for what failed: the class of the first failure, the words of all."""
    failed = [finding for finding in findings if finding.level is Level.FAIL]
    if failed:
        raise ERRORS.get(failed[0].what, MachineError)("\n".join(map(str, failed)))


def checks(settings: Settings, replicas: Sequence[Replica]) -> list[Finding]:
    """What must hold for these to start. The driver is not among it: planning has judged that already."""
    return [
        port(settings.host, settings.port),
        writable(What.RUN_DIR, "BERTH_RUN_DIR", settings.run_dir, LEAST_RUN_BYTES),
        writable(What.DATA_DIR, "BERTH_DATA", settings.data_dir, LEAST_DATA_BYTES),
        *shared_memory(replicas),
        memory(replicas, available_memory()),
        open_files(),
        *locked_memory(replicas),
    ]


def port(host: str, number: int) -> Finding:
    try:
        _bind(host, number)
    except socket.gaierror as error:
        detail, remedy = f"BERTH_HOST={host!r} is no address: {error.strerror}", "Set it to 0.0.0.0"
    except OSError as error:
        detail, remedy = _port_trouble(host, number, error)
    else:
        return Finding(level=Level.OK, what=What.PORT, detail=f"{host}:{number} is free")
    return Finding(level=Level.FAIL, what=What.PORT, detail=detail, remedy=remedy)


def _bind(host: str, number: int) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what just ended does not count
        listener.bind(address)
        listener.listen(1)


def _port_trouble(host: str, number: int, error: OSError) -> tuple[str, str]:
    """Detail and remedy."""
    if error.errno == errno.EADDRINUSE:
        return f"{host}:{number} is in use{_holder(number)}", "Stop that process, or set BERTH_PORT to a free port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host!r} is no address of this machine", "Set BERTH_HOST to 0.0.0.0 or to one of its addresses"
    if error.errno == errno.EACCES:
        return f"port {number} needs root's rights", "Set BERTH_PORT to 1024 or above"
    return f"{host}:{number}: {error.strerror}", "Set BERTH_HOST and BERTH_PORT to another address"


def _holder(number: int) -> str:
    """Who listens there, as far as we may see."""
    try:
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.pid and one.laddr and one.laddr.port == number:
                return f" by {psutil.Process(one.pid).name()!r} (pid {one.pid})"
    except (psutil.Error, OSError):
        pass
    return ""


def writable(what: What, variable: str, path: str, least_bytes: int) -> Finding:
    """Really writes: rights alone tell nothing about a full disk or a read-only mount."""
    folder = existing(path)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        detail, remedy = write_trouble(variable, path, error)
        return Finding(level=Level.FAIL, what=what, detail=detail, remedy=remedy)
    free = psutil.disk_usage(str(folder)).free
    if free < least_bytes:
        detail = f"{variable}={path!r} has {size(free)} left, less than {size(least_bytes)}"
        return Finding(level=Level.WARN, what=what, detail=detail, remedy=f"Free space there, or set {variable}")
    state = "is writable" if folder == Path(path) else f"can be made in {str(folder)!r}"
    return Finding(level=Level.OK, what=what, detail=f"{path!r} {state}, {size(free)} free")


def write_trouble(variable: str, path: str, error: OSError) -> tuple[str, str]:
    """Detail and remedy for a directory that cannot be written: who we are, whose it is."""
    uid, folder = os.geteuid(), existing(path)
    detail = f"{variable}={path!r} cannot be written as user {uid}: {error.filename or path!r}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return detail, f"Free space in {str(folder)!r}, or set {variable} to a directory that has some"
    if error.errno == errno.EROFS:
        return detail, f"Mount a volume there (`-v berth:{path}`), or set {variable} to a directory that can be written"
    other = f", or set {variable} to a directory that this user may write"
    if error.errno not in (errno.EACCES, errno.EPERM):
        return detail, f"Give user {uid} write access to {str(folder)!r}{other}"
    owner = folder.stat()
    detail += f" ({str(folder)!r} belongs to user {owner.st_uid}, mode {owner.st_mode & 0o7777:o})"
    volume = f"docker run --rm --user 0 -v VOLUME:{path} --entrypoint chown IMAGE -R {uid} {path}"
    hand_over = f"Give it to user {uid} (on the host `chown -R {uid} FOLDER`, for a volume `{volume}`)"
    return detail, f"{hand_over}, start the container with --user 0, which does that for its own user{other}"


def existing(path: str) -> Path:
    """The path itself, or the nearest folder above it that is there and can be seen."""
    for folder in (Path(path), *Path(path).parents):
        with contextlib.suppress(OSError):
            if folder.exists():
                return folder
    return Path("/")


def shared_memory(replicas: Sequence[Replica], folder: str = "/dev/shm") -> list[Finding]:  # noqa: S108 - NCCL's place
    """Nothing to say unless a replica spans several GPUs. Of a model's replicas the largest counts: they may take
    turns.
    """
    spanning = [replica for replica in replicas if len(replica.gpus) > 1 and replica.launch is not None]
    if not spanning:
        return []
    largest: dict[str, int] = {}
    for replica in spanning:
        largest[replica.model] = max(largest.get(replica.model, 0), len(replica.gpus))
    gpus = sum(largest.values())
    free = psutil.disk_usage(folder).free if Path(folder).is_dir() else 0
    if free >= gpus * WANTED_SHM_PER_GPU_BYTES:
        return [Finding(level=Level.OK, what=What.SHM, detail=f"{folder} has {size(free)} free")]
    short = free < gpus * LEAST_SHM_PER_GPU_BYTES + PROBE_BYTES
    wanted = gpus * (LEAST_SHM_PER_GPU_BYTES if short else WANTED_SHM_PER_GPU_BYTES)
    names = ", ".join(replica.name for replica in spanning)
    return [
        Finding(
            level=Level.FAIL if short else Level.WARN,
            what=What.SHM,
            detail=f"{folder} has {size(free)} free, and {names} on several GPUs should have more than {size(wanted)}",
            remedy="Start the container with --shm-size=16g or --ipc=host (in a compose file `shm_size: 16g` or "
            "`ipc: host`); Docker gives 64 MiB",
        )
    ]


def memory(replicas: Sequence[Replica], available: int) -> Finding:
    """RAM for the replicas that run on the CPU, and the weights of those that sleep; the others on GPUs load their
    weights piece by piece.
    """
    started = [(r, r.memory) for r in replicas if r.memory and r.launch]
    wanted = sum(memory.total_bytes for r, memory in started if not r.gpus)
    asleep = sum(memory.weights_bytes * len(r.gpus) for r, memory in started if r.sleep)
    detail = f"{size(available)} available" + (f", {size(wanted)} wanted by replicas on the CPU" if wanted else "")
    detail += f", {size(asleep)} by replicas that sleep" if asleep else ""
    wanted += asleep
    if wanted <= available:
        return Finding(level=Level.OK, what=What.RAM, detail=detail)
    return Finding(level=Level.WARN, what=What.RAM, detail=detail, remedy="Serve fewer or smaller models")


def open_files() -> Finding:
    """The hard limit: boot raises the soft one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= LEAST_FILES:
        return Finding(level=Level.OK, what=What.FILES, detail=f"up to {'any' if hard < 0 else hard} per process")
    detail = f"at most {hard} per process: so many connections and no more"
    return Finding(level=Level.WARN, what=What.FILES, detail=detail, remedy="Start with --ulimit nofile=65536:65536")


def locked_memory(replicas: Sequence[Replica]) -> list[Finding]:
    """Replicas on several GPUs may lock buffers for the network's cards."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    spanning = any(len(replica.gpus) > 1 and replica.launch is not None for replica in replicas)
    if not spanning or hard == resource.RLIM_INFINITY or hard >= LEAST_LOCKED_BYTES:
        return []
    detail = f"a process may lock {size(hard)}: too little for transfers between GPUs over InfiniBand or RoCE"
    return [Finding(level=Level.WARN, what=What.LOCKED, detail=detail, remedy="Start with --ulimit memlock=-1")]


def raise_open_files() -> None:
    """To what many connections need, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def driver(inventory: GpuInventory) -> list[Finding]:
    """The driver and its GPUs. None is a warning: a machine may serve from the CPU, or attach engines elsewhere."""
    if not inventory.gpus:
        reason, _, way = inventory.reason.partition(": ")
        remedy = f"{way[:1].upper()}{way[1:]}, or serve models from the CPU, from engines attached by URL, or with sim"
        return [
            Finding(level=Level.WARN, what=What.DRIVER, detail=reason or "no GPU found", remedy=remedy.lstrip(", "))
        ]
    found = [Finding(level=Level.OK, what=What.DRIVER, detail=_gpus(inventory))]
    if inventory.reason:
        found.append(Finding(level=Level.WARN, what=What.DRIVER, detail=inventory.reason))
    if inventory.cuda_version and version(inventory.cuda_version) < LEAST_CUDA:
        least = ".".join(map(str, LEAST_CUDA))
        detail = f"driver {inventory.driver_version} runs CUDA {inventory.cuda_version}, engines want {least}"
        remedy = f"Update the NVIDIA driver on the host to {driver_for(least)}"
        found.append(Finding(level=Level.WARN, what=What.DRIVER, detail=detail, remedy=remedy))
    return found


def _gpus(inventory: GpuInventory) -> str:
    gpus = "; ".join(
        f"{gpu.index}: {gpu.name}, {size(gpu.memory_free_bytes)} of {size(gpu.memory_total_bytes)} free"
        for gpu in inventory.gpus
    )
    return f"{inventory.driver_version or 'unknown'} (CUDA {inventory.cuda_version or 'unknown'}); {gpus}"

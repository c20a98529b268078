"""Preflight checks of this host: port, directories, disk, memory, limits. Checks return Findings and change nothing.

`require` turns failures into the exception with the right exit code.
"""

import errno
import re
import resource
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

import psutil

from berth.boot.config.otel import tracing
from berth.boot.config.parsers import unquoted
from berth.boot.config.settings import Settings
from berth.errors import MachineError, PortInUseError, UnwritableError
from berth.host.cgroup import available_memory
from berth.host.disk import existing, write_problem
from berth.host.installed_engines import driver_for, version
from berth.host.net import bind_error
from berth.host.tls import CertificateError, certificate
from berth.plan import GpuInventory, Replica
from berth.units import GIB, date, size

PROBE_BYTES = 1 << 20  # written as a test: a completely full file system still creates empty files
LEAST_DATA_BYTES = 2 * GIB  # compiler caches and logs, even where no model is downloaded
LEAST_RUN_BYTES = 128 << 20  # logs: three engines' of 80 MB at most, usually far less
# Shared memory for replicas on several GPUs. NCCL's segments are about 33 MB for each neighbour of a GPU, and a ring
# has two; with less the engine ends ("unable to allocate shared memory"). Docker's default is 64 MiB. The messages
# between an engine's processes need more, and grow with the requests.
LEAST_SHM_PER_GPU_BYTES = 64 << 20
RECOMMENDED_SHM_PER_GPU_BYTES = 512 << 20
LEAST_LOCKED_BYTES = 64 << 20
LEAST_FILES = 4096
RECOMMENDED_FILES = 65_536
ENGINES_VARIABLES = re.compile(  # what engines, their libraries and HTTP clients read
    r"(CUDA|NVIDIA|NCCL|HF|HUGGINGFACE|VLLM|SGLANG|SGL|TRTLLM|TLLM|TORCH|TRITON|FLASHINFER|OMP)_.*|(https?|no|all)_proxy",
    re.IGNORECASE,
)
RENEWAL_DAYS = 14  # before its end, a certificate is warned about
LEAST_CUDA = (13, 0)  # what the engines are built for


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class What(StrEnum):
    BERTH = "berth"
    PORT = "port"
    TLS = "TLS"
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
    """The result of one check. `remedy`: what to do, unless the level is OK."""

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
    """Raises if a check failed: the class of the first failure, the text of all."""
    failed = [finding for finding in findings if finding.level is Level.FAIL]
    if failed:
        raise ERRORS.get(failed[0].what, MachineError)("\n".join(map(str, failed)))


def checks(settings: Settings, replicas: Sequence[Replica]) -> list[Finding]:
    """The conditions for a start of these replicas. The driver is not included: planning has checked it already."""
    return [
        port(settings.host, settings.port),
        *tls(settings.tls_cert, settings.tls_key),
        writable(What.RUN_DIR, "BERTH_RUN_DIR", settings.run_dir, LEAST_RUN_BYTES),
        writable(What.DATA_DIR, "BERTH_DATA", settings.data_dir, LEAST_DATA_BYTES),
        *shared_memory(replicas),
        memory(replicas, available_memory()),
        open_files(),
        *tracer(settings),
        *locked_memory(replicas),
    ]


def quoted_variables(environ: Mapping[str, str]) -> list[Finding]:
    """Variables that are not Berth's own, and so reach the engines with the quotes that `--env-file` keeps."""
    names = [
        name
        for name, text in sorted(environ.items())
        if ENGINES_VARIABLES.fullmatch(name) and not name.startswith("HF_TOKEN") and unquoted(text) != text.strip()
    ]
    if not names:
        return []
    detail = f"the value of {', '.join(names)} is in quotes, which engines take as a part of it"
    remedy = "Remove the quotes: `docker run --env-file` keeps them"
    return [Finding(level=Level.WARN, what=What.CONFIG, detail=detail, remedy=remedy)]


def tracer(settings: Settings) -> list[Finding]:
    if tracing(settings) is None:
        return []
    with suppress(ModuleNotFoundError):  # a parent is missing
        if find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp.proto.http"):
            return [Finding(level=Level.OK, what=What.CONFIG, detail="OpenTelemetry's exporter is installed")]
    detail = "traces are wanted, and OpenTelemetry's exporter is not installed"
    remedy = "pip install 'berth[tracing]', or set OTEL_SDK_DISABLED=true"
    return [Finding(level=Level.FAIL, what=What.CONFIG, detail=detail, remedy=remedy)]


def port(host: str, number: int) -> Finding:
    error = bind_error(host, number)
    if error is None:
        return Finding(level=Level.OK, what=What.PORT, detail=f"{host}:{number} is free")
    detail, remedy = f"{host}:{number}: {error.strerror}", "Set BERTH_HOST and BERTH_PORT to another address"
    if isinstance(error, socket.gaierror):
        detail, remedy = f"BERTH_HOST={host!r} is not an address: {error.strerror}", "Set it to 0.0.0.0"
    elif error.errno == errno.EADDRINUSE:
        detail = f"{host}:{number} is in use{listener(number)}"
        remedy = "Stop that process, or set BERTH_PORT to a free port"
    elif error.errno == errno.EADDRNOTAVAIL:
        detail = f"BERTH_HOST={host!r} is not an address of this host"
        remedy = "Set it to 0.0.0.0 or to one of its addresses"
    elif error.errno == errno.EACCES:
        detail, remedy = f"port {number} requires root privileges", "Set BERTH_PORT to 1024 or above"
    return Finding(level=Level.FAIL, what=What.PORT, detail=detail, remedy=remedy)


def tls(cert: str, key: str) -> list[Finding]:
    """The certificate and its key, tried out as a client would."""
    if not cert:
        return []
    try:
        found = certificate(cert, key)
    except CertificateError as error:
        remedy = "Set BERTH_TLS_CERT and BERTH_TLS_KEY to a PEM file and its key, and let Berth's user read them"
        return [Finding(level=Level.FAIL, what=What.TLS, detail=str(error), remedy=remedy)]
    detail = f"the certificate for {', '.join(found.names)} is valid until {date(found.ends)}"
    if found.ends - time.time() > RENEWAL_DAYS * 86_400:
        return [Finding(level=Level.OK, what=What.TLS, detail=detail)]
    return [Finding(level=Level.WARN, what=What.TLS, detail=detail, remedy="Renew it: Berth follows its file")]


def listener(number: int) -> str:
    """The process that listens there, if we may see it."""
    try:
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.pid and one.laddr and one.laddr.port == number:
                return f" by {psutil.Process(one.pid).name()!r} (pid {one.pid})"
    except (psutil.Error, OSError):
        pass
    return ""


def writable(what: What, variable: str, path: str, least_bytes: int) -> Finding:
    """Writes a test file: permissions do not show a full disk or a read-only mount."""
    folder = existing(path)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        detail, remedy = write_problem(variable, path, error)
        return Finding(level=Level.FAIL, what=what, detail=detail, remedy=remedy)
    free = psutil.disk_usage(str(folder)).free
    if free < least_bytes:
        detail = f"{variable}={path!r} has {size(free)} free, less than {size(least_bytes)}"
        return Finding(level=Level.WARN, what=what, detail=detail, remedy=f"Free space there, or set {variable}")
    state = "is writable" if folder == Path(path) else f"can be created in {str(folder)!r}"
    return Finding(level=Level.OK, what=what, detail=f"{path!r} {state}, {size(free)} free")


def shared_memory(replicas: Sequence[Replica], folder: str = "/dev/shm") -> list[Finding]:  # noqa: S108 - NCCL's place
    """No finding unless a replica spans several GPUs. Of each model only the largest replica counts, since they may
    run one at a time.
    """
    spanning = [replica for replica in replicas if len(replica.gpus) > 1 and replica.launch is not None]
    if not spanning:
        return []
    largest: dict[str, int] = {}
    for replica in spanning:
        largest[replica.model] = max(largest.get(replica.model, 0), len(replica.gpus))
    gpus = sum(largest.values())
    free = psutil.disk_usage(folder).free if Path(folder).is_dir() else 0
    if free >= gpus * RECOMMENDED_SHM_PER_GPU_BYTES:
        return [Finding(level=Level.OK, what=What.SHM, detail=f"{folder} has {size(free)} free")]
    short = free < gpus * LEAST_SHM_PER_GPU_BYTES + PROBE_BYTES
    needed = gpus * (LEAST_SHM_PER_GPU_BYTES if short else RECOMMENDED_SHM_PER_GPU_BYTES)
    names = ", ".join(replica.name for replica in spanning)
    return [
        Finding(
            level=Level.FAIL if short else Level.WARN,
            what=What.SHM,
            detail=f"{folder} has {size(free)} free, and {names} on several GPUs need more than {size(needed)}",
            remedy="Start the container with --shm-size=16g or --ipc=host (in a compose file `shm_size: 16g` or "
            "`ipc: host`); Docker's default is 64 MiB",
        )
    ]


def memory(replicas: Sequence[Replica], available: int) -> Finding:
    """RAM for the replicas on the CPU and the weights of sleeping replicas; the others load their weights to the GPU
    in parts.
    """
    started = [(r, r.memory) for r in replicas if r.memory and r.launch]
    needed = sum(memory.total_bytes for r, memory in started if not r.gpus)
    asleep = sum(memory.weights_bytes * len(r.gpus) for r, memory in started if r.sleep)
    detail = f"{size(available)} available" + (f", {size(needed)} needed by replicas on the CPU" if needed else "")
    detail += f", {size(asleep)} needed by sleeping replicas" if asleep else ""
    if needed + asleep <= available:
        return Finding(level=Level.OK, what=What.RAM, detail=detail)
    return Finding(level=Level.WARN, what=What.RAM, detail=detail, remedy="Serve fewer or smaller models")


def open_files() -> Finding:
    """The hard limit: boot raises the soft one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= LEAST_FILES:
        return Finding(level=Level.OK, what=What.FILES, detail=f"up to {'any' if hard < 0 else hard} per process")
    detail = f"at most {hard} per process, which limits the connections"
    return Finding(level=Level.WARN, what=What.FILES, detail=detail, remedy="Start with --ulimit nofile=65536:65536")


def locked_memory(replicas: Sequence[Replica]) -> list[Finding]:
    """Replicas on several GPUs may lock buffers for network cards."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    spanning = any(len(replica.gpus) > 1 and replica.launch is not None for replica in replicas)
    if not spanning or hard == resource.RLIM_INFINITY or hard >= LEAST_LOCKED_BYTES:
        return []
    detail = f"a process may lock {size(hard)}: too little for transfers between GPUs over InfiniBand or RoCE"
    return [Finding(level=Level.WARN, what=What.LOCKED, detail=detail, remedy="Start with --ulimit memlock=-1")]


def raise_open_files() -> None:
    """Raises the soft limit for many connections, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = RECOMMENDED_FILES if hard == resource.RLIM_INFINITY else min(hard, RECOMMENDED_FILES)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


def driver(inventory: GpuInventory) -> list[Finding]:
    """The driver and its GPUs. No GPU is only a warning: models may run on the CPU, or on attached engines."""
    if not inventory.gpus:
        reason, _, way = inventory.reason.partition(": ")
        remedy = f"{way[:1].upper()}{way[1:]}, or serve models on the CPU, with attached engines, or with sim"
        return [
            Finding(level=Level.WARN, what=What.DRIVER, detail=reason or "no GPU found", remedy=remedy.lstrip(", "))
        ]
    gpus = "; ".join(
        f"{gpu.index}: {gpu.name}, {size(gpu.memory_free_bytes)} of {size(gpu.memory_total_bytes)} free"
        for gpu in inventory.gpus
    )
    detail = f"{inventory.driver_version or 'unknown'} (CUDA {inventory.cuda_version or 'unknown'}); {gpus}"
    found = [Finding(level=Level.OK, what=What.DRIVER, detail=detail)]
    if inventory.reason:
        found.append(Finding(level=Level.WARN, what=What.DRIVER, detail=inventory.reason))
    if inventory.cuda_version and version(inventory.cuda_version) < LEAST_CUDA:
        least = ".".join(map(str, LEAST_CUDA))
        detail = f"driver {inventory.driver_version} runs CUDA {inventory.cuda_version}, engines need {least}"
        remedy = f"Update the NVIDIA driver on the host to {driver_for(least)}"
        found.append(Finding(level=Level.WARN, what=What.DRIVER, detail=detail, remedy=remedy))
    return found

"""The GPUs of this host, as reported by NVML. Without a driver or a GPU: a state with a reason, never a crash."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psutil
import pynvml

from berth.plan import DriverState, Gpu, GpuInventory
from berth.units import size

ASK_FOR_GPUS = (
    "start the container with `--gpus all` (`--device nvidia.com/gpu=all` with Podman, `gpus: all` in a compose file); "
    "the host must have the NVIDIA driver and the NVIDIA container toolkit"
)
# What is wrong, a colon, and what to do: `engine_choice` shows the two parts separately.
ADVICE = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: f"no NVIDIA driver here (libnvidia-ml.so.1 is missing): {ASK_FOR_GPUS}",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "the NVIDIA driver's library is here but the driver is not loaded or its devices are missing: run nvidia-smi "
        f"on the host, and load the driver there (modprobe nvidia) if it fails; if it works, {ASK_FOR_GPUS}"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission to query the NVIDIA driver: check the access to /dev/nvidia*",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was updated while loaded: reboot the host",
}
NO_INSTANCE = (
    "MIG is on, and no instance of it is visible here: make one (nvidia-smi mig -cgi PROFILE -C), give the container "
    'one (--gpus "device=0:0"), or turn MIG off on the host (nvidia-smi -i INDEX -mig 0)'
)
INSTANCES = 100  # more than a GPU can be cut into, and more than the GPUs of one host
NO_DRIVER_CODES = frozenset({pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupant:
    """A process that holds memory of a GPU. Its pid is the host's, also inside a container."""

    pid: int
    name: str  # "" where NVML does not know it: a container does not see the host's processes
    used_bytes: int | None  # None: not reported by the driver

    def __str__(self) -> str:
        used = "" if self.used_bytes is None else f", {size(self.used_bytes)}"
        return f"{self.name or 'a process'} (pid {self.pid}{used})"


def init_error(nvml: Any = pynvml) -> Exception | None:
    """Initialises NVML; returns the error if that fails."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        found: Exception = error
        return found
    return None


def occupants() -> dict[int, tuple[Occupant, ...]]:
    """The compute processes on each GPU, by its index. Empty where NVML is unavailable."""
    if init_error():
        return {}
    occupants_of: dict[int, tuple[Occupant, ...]] = {}
    try:
        whole = range(int(pynvml.nvmlDeviceGetCount()))
        for index in (one for gpu in whole for one in (gpu, *_instance_indexes(gpu))):
            try:
                found = pynvml.nvmlDeviceGetComputeRunningProcesses(handle_of(index))
            except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError):  # the other: a driver older than this function
                found = []
            names = [_text(partial(pynvml.nvmlSystemGetProcessName, one.pid), "").rpartition("/")[2] for one in found]
            occupants_of[index] = tuple(
                Occupant(pid=one.pid, name=name, used_bytes=one.usedGpuMemory)
                for one, name in zip(found, names, strict=True)
            )
    except pynvml.NVMLError:
        return {}
    finally:
        _shut_down()
    return occupants_of


def inventory(environ: Mapping[str, str] | None = None) -> GpuInventory:
    """What NVML sees, restricted to CUDA_VISIBLE_DEVICES of `environ`, which NVML itself ignores.

    NVIDIA_VISIBLE_DEVICES is not read: the container toolkit has applied it already, and renumbered the GPUs.
    """
    failure = init_error()
    if failure is not None:
        return _unavailable(failure)
    try:
        found = _inventory()
    except pynvml.NVMLError as error:
        return _unavailable(error)
    finally:
        _shut_down()
    return visible(found, (environ or {}).get("CUDA_VISIBLE_DEVICES"))


def visible(found: GpuInventory, value: str | None) -> GpuInventory:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves: indexes in PCI order or UUIDs, which may be shortened.

    As in CUDA, an entry that names no GPU hides the rest of the list, an empty list hides all, and the index of a GPU
    that is cut into MIG instances means the first of them.
    """
    if value is None or found.state != DriverState.OK:
        return found
    entries = [part.strip() for part in value.strip("\"'").split(",")]  # quotes that `--env-file` kept
    kept: list[Gpu] = []
    for entry in entries:
        first_instance = str(instance_index(int(entry), 0)) if entry.isdecimal() else ""
        gpu = named(found.gpus, entry) or named(found.gpus, first_instance)
        if gpu is None:
            break
        kept.append(gpu)
    if kept:
        return replace(found, gpus=tuple(gpu for gpu in found.gpus if gpu in kept))
    reason = f"CUDA_VISIBLE_DEVICES={value!r} hides every GPU of this host: unset it"
    if entries[0].upper().startswith("MIG-"):
        reason = f"CUDA_VISIBLE_DEVICES={value!r} names a MIG instance that is not here: see `nvidia-smi -L`"
    return replace(found, state=DriverState.NO_GPUS, gpus=(), reason=reason)


def named(gpus: Sequence[Gpu], name: int | str) -> Gpu | None:
    """The GPU or MIG instance of this index ("0") or UUID ("GPU-5ab..."), which may be shortened as long as it is
    unique.
    """
    text = str(name)
    if text.isdecimal():
        return next((gpu for gpu in gpus if gpu.index == int(text)), None)
    matches = [gpu for gpu in gpus if text and gpu.uuid.lower().startswith(text.lower())]
    return matches[0] if len(matches) == 1 else None


def _unavailable(error: Exception) -> GpuInventory:
    code = getattr(error, "value", None)
    state = DriverState.NO_DRIVER if code in NO_DRIVER_CODES else DriverState.FAILED
    reason = ADVICE.get(code, f"NVML fails with {str(error)!r}: run nvidia-smi on the host")
    return GpuInventory(state=state, reason=reason)


def _inventory() -> GpuInventory:
    driver, cuda = _text(pynvml.nvmlSystemGetDriverVersion, ""), ""
    with contextlib.suppress(pynvml.NVMLError):
        number = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        cuda = f"{number // 1000}.{number % 1000 // 10}"
    count = int(pynvml.nvmlDeviceGetCount())
    if count == 0:
        reason = f"the NVIDIA driver is here and lists no GPU: {ASK_FOR_GPUS}"
        return GpuInventory(state=DriverState.NO_GPUS, reason=reason, driver_version=driver, cuda_version=cuda)
    gpus: list[Gpu] = []
    broken: list[str] = []
    for index in range(count):
        try:
            gpus += [_gpu(one, part_of=index) for one in _instance_indexes(index)] or [_gpu(index)]
        except pynvml.NVMLError as error:
            reason = f"{str(error)!r}; check `nvidia-smi` and dmesg on the host"
            with contextlib.suppress(pynvml.NVMLError):
                if _mig_mode(pynvml.nvmlDeviceGetHandleByIndex(index)):
                    reason = NO_INSTANCE
            broken.append(f"GPU {index} is ignored: {reason}")
    return GpuInventory(
        state=DriverState.OK if gpus else DriverState.FAILED,
        reason=". ".join(broken),
        driver_version=driver,
        cuda_version=cuda,
        gpus=tuple(gpus),
    )


def _mig_mode(handle: object) -> bool:
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:  # a GPU without MIG
        return False
    return bool(current)


def _shut_down() -> None:
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlShutdown()


def instance_index(gpu: int, number: int) -> int:
    """Of a MIG instance, among all GPUs: 100 is the first one of GPU 0, 201 the second one of GPU 1."""
    return INSTANCES * (gpu + 1) + number


def handle_of(index: int, nvml: Any = pynvml) -> Any:
    """NVML's handle of a GPU or MIG instance. NVMLError where there is none."""
    gpu, number = divmod(index, INSTANCES)
    if not gpu:
        return nvml.nvmlDeviceGetHandleByIndex(index)
    return nvml.nvmlDeviceGetMigDeviceHandleByIndex(nvml.nvmlDeviceGetHandleByIndex(gpu - 1), number)


def _instance_indexes(index: int) -> list[int]:
    """Of the MIG instances of one GPU that are visible here. Their numbers may have gaps, and a container with an
    instance alone may not read the memory of the GPU around it.
    """
    found = []
    with contextlib.suppress(pynvml.NVMLError):  # a GPU or a driver without MIG
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        for number in range(int(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)) if _mig_mode(handle) else 0):
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
                found.append(instance_index(index, number))
    return found


def _gpu(index: int, *, part_of: int | None = None) -> Gpu:
    handle = handle_of(index)
    whole = handle if part_of is None else pynvml.nvmlDeviceGetHandleByIndex(part_of)
    unified = False
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except pynvml.NVMLError as error:  # one that shares the host's memory (GB10) reports none
        if getattr(error, "value", None) != pynvml.NVML_ERROR_NOT_SUPPORTED:
            raise
        shared = psutil.virtual_memory()
        total, free, unified = int(shared.total), int(shared.available), True
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(whole)
    return Gpu(
        index=index,
        uuid=_text(lambda: pynvml.nvmlDeviceGetUUID(handle), f"GPU {index}"),
        name=_text(lambda: pynvml.nvmlDeviceGetName(handle), "unknown GPU"),
        memory_total_bytes=total,
        memory_free_bytes=free,
        compute_capability=f"{major}.{minor}",
        unified=unified,
        mig=part_of is None and _mig_mode(handle),
        part_of=part_of,
    )


def _text(query: Callable[[], str | bytes], default: str) -> str:
    """The result as text: some versions of NVML's binding return bytes. `default` where NVML fails."""
    with contextlib.suppress(pynvml.NVMLError, UnicodeDecodeError):
        result = query()
        return result.decode() if isinstance(result, bytes) else result
    return default

"""The environment variables that every engine is started with: its GPUs, its caches, the hub, no telemetry."""

from pathlib import PurePosixPath

from berth.engines.base import LaunchOrder

SYSTEM_PATH = (
    "/usr/local/nvidia/bin",
    "/usr/local/cuda/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
)

# An engine lives in an environment of its own: what points Python elsewhere must not reach it.
UNSET = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")

SHARED_BELOW = 0.8


def engine_environment(order: LaunchOrder, engine: str) -> dict[str, str]:
    """What all engines get; each adds its own and the user's `extra_env` last.

    Caches lie below the data directory, one folder per engine, because two engines' builds of the same compiler
    cache are not compatible; the hub's downloads are shared.
    """
    cache = PurePosixPath(order.data_dir, "cache", engine)
    return {
        "PATH": ":".join((f"{order.home}/bin", *SYSTEM_PATH)),  # ninja and the compilers' wrappers lie in bin
        "HF_HOME": str(PurePosixPath(order.data_dir, "huggingface")),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "XDG_CACHE_HOME": str(cache),
        "XDG_CONFIG_HOME": str(cache / "config"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "FLASHINFER_WORKSPACE_BASE": str(cache / "flashinfer"),
        **_gpus(order),
        **({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if order.offline else {}),
    }


def _gpus(order: LaunchOrder) -> dict[str, str]:
    """UUIDs rather than indexes: they mean the same GPU whatever the order of enumeration."""
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in order.gpus),
    }


def memory_fraction(order: LaunchOrder) -> float:
    """The replica's share of each GPU; where nobody computed one, the engines' own usual figure."""
    return order.memory_fraction if order.memory_fraction is not None else 0.9


def shares_its_gpus(order: LaunchOrder) -> bool:
    """A replica with clearly less than a whole GPU has a neighbour."""
    return memory_fraction(order) < SHARED_BELOW


def share_bytes(order: LaunchOrder) -> int:
    """The bytes of the smallest GPU that this replica may use; 0 without a GPU."""
    return min((int(gpu.memory_total_bytes * memory_fraction(order)) for gpu in order.gpus), default=0)


def clamped(value: float, low: float, high: float) -> str:
    """A fraction for a command line, within what the engine can work with."""
    return f"{min(max(value, low), high):.3f}"

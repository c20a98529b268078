"""The environment variables that every engine is started with: its GPUs, its caches, the hub, no telemetry.

Everything that an engine compiles or tunes is in `<data>/cache/<engine>-<version>/<GPU kind>`, and what belongs to one
model in `models/<model>` below that: a new version, or another GPU, starts with empty folders and keeps the old ones.
The hub's downloads are shared by all.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from berth.engines.base import LaunchOrder
from berth.plan import Ranks

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

HUB_TOKENS = ("HF_TOKEN", "HF_TOKEN_FILE", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN")
# An engine has an environment of its own: what points Python elsewhere must not reach it. And it downloads nothing:
# `berth exec` has done that before, so it needs no token of the hub.
UNSET = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", *HUB_TOKENS)

# Libraries that are asked not to report usage, besides the engines themselves.
NO_TELEMETRY = {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}

SHARED_BELOW = 0.8
LONGEST_SLUG = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """The folders of one engine's caches."""

    shared: PurePosixPath  # of this engine, its version and the kind of GPU
    model: PurePosixPath  # of one model below that


def caches(order: LaunchOrder, engine: str) -> Caches:
    version = f"{engine}-{order.version}" if order.version else engine
    kinds = sorted({f"{gpu.name}-sm{gpu.compute_capability.replace('.', '')}" for gpu in order.gpus})
    gpu_kind = _slug("+".join(kinds)).lower() if kinds else "cpu"  # as in nvidia-h100-80gb-hbm3-sm90
    shared = PurePosixPath(order.data_dir, "cache", _slug(version), gpu_kind)
    return Caches(shared=shared, model=shared / "models" / _slug(order.source))


def engine_environment(order: LaunchOrder, engine: str) -> dict[str, str]:
    """The variables of all engines; each adds its own. `berth exec` adds the user's, which take precedence.

    Kernels of Triton, FlashInfer, DeepGEMM and CUDA are cached by their content, for all models. The results of
    torch.compile belong to one model. HOME is for caches without a variable of their own.
    """
    cache = caches(order, engine)
    tiktoken = str(PurePosixPath(order.data_dir, "cache", "tiktoken"))  # it checks its files: all engines share them
    kernels = str(PurePosixPath(order.data_dir, "flashinfer-cubins"))
    return {
        "PATH": ":".join((f"{order.home}/bin", *SYSTEM_PATH)),  # ninja and the compilers' wrappers are in bin
        "PYTHONUNBUFFERED": "1",
        **NO_TELEMETRY,
        "HF_HOME": str(PurePosixPath(order.data_dir, "huggingface")),
        "HF_HUB_OFFLINE": "1",  # `berth exec` has downloaded the model
        "TRANSFORMERS_OFFLINE": "1",
        "TIKTOKEN_CACHE_DIR": tiktoken,  # Python's tiktoken
        "TIKTOKEN_RS_CACHE_DIR": tiktoken,  # Harmony's, in Rust: for gpt-oss
        **({"FLASHINFER_CUBINS_REPOSITORY": kernels} if order.offline else {}),  # else NVIDIA's server
        "HOME": str(cache.shared / "home"),
        "XDG_CACHE_HOME": str(cache.shared),
        "XDG_CONFIG_HOME": str(cache.shared / "config"),
        "TRITON_CACHE_DIR": str(cache.shared / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache.model / "inductor"),
        "TORCH_EXTENSIONS_DIR": str(cache.shared / "torch_extensions"),
        "FLASHINFER_WORKSPACE_BASE": str(cache.shared / "flashinfer"),
        "CUDA_CACHE_PATH": str(cache.shared / "cuda"),
        "TILELANG_CACHE_DIR": str(cache.shared / "tilelang"),
        "TVM_FFI_CACHE_DIR": str(cache.shared / "tvm-ffi"),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # UUIDs instead of indexes: they do not depend on the order of enumeration.
        "CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in order.gpus),
    }


def rank_environment(ranks: Ranks) -> dict[str, str]:
    """The interface between the boxes: NCCL and Gloo would choose one by its name."""
    return {"NCCL_SOCKET_IFNAME": ranks.interface, "GLOO_SOCKET_IFNAME": ranks.interface}


def traces_environment(order: LaunchOrder) -> dict[str, str]:
    """Of an engine that sends spans. The address is on its command line: in a variable it would make each process of
    vLLM's a tracer.
    """
    if not order.traces_endpoint:
        return {}
    return {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_SERVICE_NAME": order.replica}


def cache_folders(env: dict[str, str]) -> tuple[str, ...]:
    """The folders that boot creates: some compilers create only the last part of a path."""
    names = ("HF_HOME", "HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH", "TIKTOKEN_CACHE_DIR")
    return tuple(env[name] for name in names)


def _slug(text: str) -> str:
    """A folder name; a long one is cut and made unique by a digest."""
    slug = re.sub(r"[^A-Za-z0-9._+]+", "-", text).strip("-.")
    if 0 < len(slug) <= LONGEST_SLUG:
        return slug
    return f"{slug[:LONGEST_SLUG]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("-")


def memory_fraction(order: LaunchOrder) -> float:
    """The replica's share of each GPU; the engines' usual default where none is planned."""
    return order.memory_fraction if order.memory_fraction is not None else 0.9


def shares_its_gpus(order: LaunchOrder) -> bool:
    """Whether it has clearly less than a whole GPU, so that other replicas use the same GPUs."""
    return memory_fraction(order) < SHARED_BELOW


def share_bytes(order: LaunchOrder) -> int:
    """Bytes of the smallest GPU that this replica may use; 0 without a GPU."""
    return min((int(gpu.memory_total_bytes * memory_fraction(order)) for gpu in order.gpus), default=0)


def clamped(value: float, low: float, high: float) -> str:
    """A fraction for a command line, within the range that the engine accepts."""
    return f"{min(max(value, low), high):.3f}"

"""Where each figure of a replica comes from, for people. Pure."""

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.model_spec import EngineSpec, ModelSpec
from berth.boot.planner.memory import weights_from_name
from berth.boot.planner.placement import CPU_CONTEXT, Allocation
from berth.boot.planner.resolve import ResolvedModel
from berth.engines.base import LaunchOrder
from berth.engines.cli_arguments import names

STATED = "{} in BERTH_MODELS"
CONTEXT_FLAGS = ("--max-model-len", "--context-length", "--max-seq-len")


def origins(
    model: ResolvedModel, entry: EngineSpec, order: LaunchOrder, allocation: Allocation | None
) -> dict[str, str]:
    """By figure. Only of engines that Berth starts and gives memory."""
    info = model.info
    if info is None or allocation is None:
        return {}
    return {
        "gpus": _gpus(model.spec, allocation),
        "context": _context(model.spec, info, entry, order),
        "weights": _weights(info),
        "kv_cache": _kv_cache(model.spec, info, allocation),
        "token": "its layers in config.json" if info.cache_layers else "a guess: its layers are unknown",
        "overhead": f"{entry.engine}'s figure" + (", and its adapters" if allocation.request.extra_bytes else ""),
    }


def _gpus(spec: ModelSpec, allocation: Allocation) -> str:
    if not allocation.gpus:
        return "no GPU for this engine"
    return STATED.format("gpus") if spec.gpus is not None else "the fewest GPUs that hold it"


def _context(spec: ModelSpec, info: ModelInfo, entry: EngineSpec, order: LaunchOrder) -> str:
    if names(entry.args, *CONTEXT_FLAGS):
        return "args, which win over this figure"
    if spec.context is not None:
        return STATED.format("context")
    if order.context == info.max_position:
        return "the model's limit"
    if not order.gpus and order.context == CPU_CONTEXT:
        return "the most on a CPU, unless stated"
    known = f"; the model's limit is {info.max_position:,}" if info.max_position else "; the model's limit is unknown"
    return f"what fits{known}"


def _weights(info: ModelInfo) -> str:
    if info.weights_bytes is not None and info.weights_bytes == weights_from_name(info.source):
        return "a guess from the model's name"
    where = "files on this machine" if info.local else "files at the hub"
    return f"{where}, with MXFP4's padding" if info.quantization == "mxfp4" else where


def _kv_cache(spec: ModelSpec, info: ModelInfo, allocation: Allocation) -> str:
    if info.encoder_only:
        return "an encoder has none"
    if spec.kv_cache_bytes is not None:
        return STATED.format("kv_cache")
    if not allocation.gpus:
        return "what the weights leave of the RAM"
    return "what its share of the GPU leaves"

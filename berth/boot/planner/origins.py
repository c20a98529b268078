"""Where each figure of a replica comes from, for people. Pure."""

from berth.boot.config.model_spec import EngineSpec
from berth.boot.planner.fit.gpu_request import CPU_CONTEXT, Allocation
from berth.boot.planner.resolve import ResolvedModel
from berth.engines.base import LaunchOrder
from berth.engines.cli_arguments import names
from berth.units import date

STATED = "{} in BERTH_MODELS"
CONTEXT_FLAGS = ("--max-model-len", "--context-length", "--max-seq-len")


def origins(
    model: ResolvedModel, entry: EngineSpec, order: LaunchOrder, allocation: Allocation | None
) -> dict[str, str]:
    """By figure. Only of engines that Berth starts and gives memory."""
    info, spec = model.info, model.spec
    if info is None or allocation is None:
        return {}
    limit = f"{info.max_position:,}" if info.max_position else "unknown"
    files = "files on this machine" if info.local else "files at the hub"
    measured = f"measured {date(order.memory.measured)}" if order.memory and order.memory.measured else ""
    return {
        "gpus": _first(
            (not allocation.gpus, "no GPU for this engine"),
            (spec.gpus is not None, STATED.format("gpus")),
            otherwise="the fewest GPUs that hold it",
        ),
        "context": _first(
            (names(entry.args, *CONTEXT_FLAGS), "args, which win over this figure"),
            (spec.context is not None, STATED.format("context")),
            (order.context == info.max_position, "the model's limit"),
            (not order.gpus and order.context == CPU_CONTEXT, "the most on a CPU, unless stated"),
            otherwise=f"what fits; the model's limit is {limit}",
        ),
        "weights": _first(
            (bool(measured), measured),
            (info.weights_bytes is None, "unknown"),
            (info.guessed_weights, "a guess from the model's name"),
            (info.quantization == "mxfp4", f"{files}, with MXFP4's padding"),
            otherwise=files,
        ),
        "kv_cache": _first(
            (info.encoder_only, "an encoder has none"),
            (spec.kv_cache_bytes is not None, STATED.format("kv_cache")),
            (not allocation.gpus, "what the weights leave of the RAM"),
            otherwise="what its share of the GPU leaves",
        ),
        "token": "its layers in config.json" if info.cache_layers else "a guess: its layers are unknown",
        "overhead": (measured or f"{entry.engine}'s figure")
        + (", and its adapters" if allocation.request.extra_bytes else ""),
    }


def _first(*cases: tuple[bool, str], otherwise: str) -> str:
    return next((text for holds, text in cases if holds), otherwise)

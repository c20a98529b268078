"""Which of the starts that were measured count for a plan. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from berth import __version__
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.models import ModelSpec
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.resolve import ResolvedModel
from berth.plan import EngineName, Gpu, MeasuredAs
from berth.records.measured import Measurement, gpu_kind

MEASURABLE = (EngineName.VLLM, EngineName.SGLANG)
LEFT_OUT = frozenset(
    {"name", "source", "revision", "variant", "engines", "auto", "options", "aliases", "gpus", "context"}
    | {"kv_cache_bytes", "standby", "load", "idle_unload_s", "idle_stop_s", "min_residency_s", "max_wait_s", "pin"}
    | {"concurrency", "pass_fields", "drain_timeout_s"}
    | {"replicas", "replicas_at_start", "adapter_folder", "priority"}
    | {"nodes"}  # a rank is not measured
)


def measured_as(
    model: ResolvedModel, info: ModelInfo, number: int, host: HostInfo, gpus: Sequence[Gpu]
) -> MeasuredAs | None:
    """What a start of this engine on these GPUs is kept as. None: it is not measured."""
    engine, installed = model.entries[number].engine, host.installed.get(model.entries[number].engine)
    if not gpus or engine not in MEASURABLE or installed is None:
        return None
    return MeasuredAs(
        engine=engine,
        version=installed.version,
        gpu_kind=gpu_kind(gpus),
        gpus=len(gpus),
        model=f"{info.source}@{info.commit or info.weights_bytes}",
        arguments=arguments_digest(model, number),
    )


def compared_as(model: ResolvedModel, number: int, host: HostInfo, gpus: Sequence[Gpu]) -> MeasuredAs:
    """What its speed depends on: of any engine, on the CPU too."""
    engine, info = model.entries[number].engine, model.info
    installed = host.installed.get(engine)
    weights = f"@{info.commit or info.weights_bytes}" if info else ""
    return MeasuredAs(
        engine=engine,
        version=installed.version if installed else __version__,
        gpu_kind=gpu_kind(gpus) if gpus else "cpu",
        gpus=len(gpus),
        model=f"{info.source if info else model.spec.source}{weights}",
        arguments=f"{arguments_digest(model, number)} {model.entries[number].dialect or ''}".strip(),
    )


def measured_starts(model: ResolvedModel, info: ModelInfo, number: int, host: HostInfo) -> tuple[Measurement, ...]:
    """Of this engine with this model and these arguments, on GPUs of any kind and number."""
    same = measured_as(model, info, number, host, host.inventory.gpus[:1])
    if same is None:
        return ()
    found = host.measured.measurements
    return tuple(one for one in found if replace(one.of, gpu_kind=same.gpu_kind, gpus=same.gpus) == same)


def arguments_digest(model: ResolvedModel, number: int) -> str:
    """Of all that the user says about the model and this engine, except what changes no memory: names, when it is
    loaded, limits of the router, and the GPUs, context and cache, which the measurement separates from weights and
    overhead.
    """
    given = [(name, getattr(model.spec, name)) for name in ModelSpec.__dataclass_fields__ if name not in LEFT_OUT]
    entry = model.entries[number]
    text = repr((given, entry.args, sorted(entry.env)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""ModelSpec and ModelInfo -> ModelOptions: the settings that engines spell differently, what they change about the
model's memory, and why an engine or a GPU cannot have them. Pure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.model_spec import EngineSpec, ModelSpec
from berth.engines.base import Drafter, KvDtype, ModelOptions, Speculation
from berth.engines.model_options import (
    LEAST_FP8_KV,
    NGRAM_TOKENS,
    SGLANG_TEXT_ONLY,
    capability,
    in_arguments,
)
from berth.host.gpus import named
from berth.plan import EngineName, Gpu, Task

MTP_TOKENS = 1  # what most recipes use; more are seldom accepted where one layer predicts them all
DRAFT_TOKENS = {Drafter.DFLASH: 15}
OTHER_DRAFT_TOKENS = 3
LEAST_ELEMENT_BYTES = 0.5  # of a quantised checkpoint's tower, in case it is quantised too
# By a word in a draft model's name or architecture.
DRAFTERS = {
    "eagle3": Drafter.EAGLE3,
    "eagle": Drafter.EAGLE,
    "dflash": Drafter.DFLASH,
    "assistant": Drafter.ASSISTANT,
}

Reason = tuple[str, str, str]  # the setting, why not, and what is allowed


def speculation_of(wanted: str, info: ModelInfo, *, known: Speculation | None = None) -> Speculation | None:
    """What `speculation: WANTED` means for this model. `known`: what is known to work for it, from elsewhere than its
    own checkpoint.

    `auto` takes `known`, else the checkpoint's own layers (MTP), unless it is a mixture of experts: checking several
    tokens at once reads more experts, and can be slower than without. Else there is no speculation.
    """
    origin = f"speculation: {wanted}"
    own = Speculation(drafter=Drafter.MTP, tokens=MTP_TOKENS, origin=origin)
    match wanted:
        case "off":
            return None
        case "auto" if known:
            return replace(known, origin=known.origin or origin)
        case "auto":
            return own if info.draft_layers and not info.experts else None
        case "mtp":
            return own
        case "ngram":
            return Speculation(drafter=Drafter.NGRAM, tokens=NGRAM_TOKENS, origin=origin)
        case source:
            return drafted(ModelInfo(source=source), origin="speculation")


def drafted(draft: ModelInfo, *, origin: str) -> Speculation:
    """Speculation by a checkpoint of its own: its name or its architecture say of which kind."""
    text = " ".join((draft.source.rpartition("/")[2], *draft.architectures)).lower()
    drafter = next((kind for word, kind in DRAFTERS.items() if word in text), Drafter.MODEL)
    tokens = DRAFT_TOKENS.get(drafter, OTHER_DRAFT_TOKENS)
    return Speculation(drafter=drafter, tokens=tokens, source=draft.source, origin=origin)


def options_of(spec: ModelSpec, info: ModelInfo, speculation: Speculation | None) -> ModelOptions:
    """A model that reads text alone has nothing to leave out."""
    return ModelOptions(
        speculation=speculation,
        kv_dtype=spec.kv_dtype,
        checkpoint_kv_dtype=info.kv_dtype,
        text_only=spec.text_only and info.multimodal,
        prefix_cache=spec.prefix_cache,
        kv_offload_bytes=spec.kv_offload_bytes or 0,
    )


def engine_options(spec: ModelSpec, options: ModelOptions, engine: EngineName) -> ModelOptions:
    """`auto` leaves out what this engine cannot."""
    cannot = engine is EngineName.TRTLLM and spec.speculation == "auto"
    return replace(options, speculation=None) if cannot else options


def with_options(
    info: ModelInfo, options: ModelOptions, entries: Sequence[EngineSpec], draft: ModelInfo | None
) -> ModelInfo:
    """The model with the weights and the cache of its draft model, and without its vision tower if no engine loads
    that.
    """
    weights = info.weights_bytes
    if weights is None:
        return info
    if options.text_only and not any(in_arguments(one.engine, "text_only", one.args) for one in entries):
        element = LEAST_ELEMENT_BYTES if info.quantization else 2
        weights = max(weights - int(info.tower_elements * element), 0)
    if draft is None or all(in_arguments(one.engine, "speculation", one.args) for one in entries):
        return replace(info, weights_bytes=weights)
    notes = tuple(f"draft model {draft.source}: {note}" for note in draft.warnings)
    return replace(
        info,
        weights_bytes=weights + (draft.weights_bytes or 0),
        draft_layers=draft.cache_layers,
        warnings=(*info.warnings, *notes),
    )


def reasons_against(
    spec: ModelSpec, info: ModelInfo, options: ModelOptions, entry: EngineSpec, *, gpus: Sequence[Gpu], cpu: bool
) -> Iterator[Reason]:
    """What this engine cannot do here, in the order of the settings. What the user's own arguments decide is theirs."""
    found = (
        *_against_speculation(spec, info, options, entry.engine),
        *_against_kv_dtype(info, options, entry.engine, gpus, cpu=cpu),
        *_against_text_only(info, options, entry.engine),
        *_against_kv_offload(info, options, gpus, cpu=cpu),
    )
    for setting, why, allowed in found:
        if not in_arguments(entry.engine, setting, entry.args):
            yield setting, f"{entry.engine}: {why}", allowed


def _against_speculation(
    spec: ModelSpec, info: ModelInfo, options: ModelOptions, engine: EngineName
) -> Iterator[Reason]:
    speculation = options.speculation
    if speculation is None or spec.speculation == "auto":
        return
    if info.task is not Task.GENERATE:
        yield "speculation", "this model generates no text", "off"
    elif engine is EngineName.TRTLLM:
        why = "the names of its settings for speculation are not known to be those of this version"
        yield "speculation", why, "off or auto with TensorRT-LLM, or vllm, sglang"
    elif speculation.drafter is Drafter.MTP and info.cache_layers and not info.draft_layers:
        why = "this checkpoint has no layers that predict further tokens (its config.json names none)"
        yield "speculation", why, "ngram, or the hub id of a draft model"


def _against_kv_dtype(
    info: ModelInfo, options: ModelOptions, engine: EngineName, gpus: Sequence[Gpu], *, cpu: bool
) -> Iterator[Reason]:
    if options.kv_dtype is KvDtype.FP8 and not cpu:
        old = [gpu for gpu in gpus if capability(gpu.compute_capability) < LEAST_FP8_KV]
        if old:
            names = ", ".join(dict.fromkeys(f"{gpu.name} ({gpu.compute_capability})" for gpu in old))
            needed = ".".join(map(str, LEAST_FP8_KV))
            yield "kv_dtype", f"an FP8 cache needs compute capability {needed}: {names}", "auto or 16bit on these GPUs"
    if options.kv_dtype is not KvDtype.SIXTEEN_BITS or options.checkpoint_kv_dtype is None:
        return
    asks = f"the checkpoint asks for a cache in {options.checkpoint_kv_dtype}"
    if engine is EngineName.TRTLLM:
        yield "kv_dtype", f"{asks}, which TensorRT-LLM follows", "auto"
    elif engine is EngineName.SGLANG and info.dtype == "float16":
        yield "kv_dtype", f"{asks}, and SGLang has no cache in float16", "auto"
    elif cpu:
        yield "kv_dtype", f"{asks}, which the engine's build for the CPU follows", "auto"


def _against_text_only(info: ModelInfo, options: ModelOptions, engine: EngineName) -> Iterator[Reason]:
    if not options.text_only:
        return
    if engine is EngineName.TRTLLM:
        yield "text_only", "TensorRT-LLM always loads all of the model", "false, or engines: [vllm]"
    elif engine is EngineName.SGLANG and not SGLANG_TEXT_ONLY & {*info.architectures}:
        names = ", ".join(info.architectures) or "this model"
        yield "text_only", f"SGLang always loads all of {names}", "false, or engines: [vllm]"


def _against_kv_offload(info: ModelInfo, options: ModelOptions, gpus: Sequence[Gpu], *, cpu: bool) -> Iterator[Reason]:
    if not options.kv_offload_bytes:
        return
    if info.encoder_only:
        yield "kv_offload", "this model has no KV cache", "off"
    elif cpu or not gpus:
        yield "kv_offload", "the KV cache is in RAM already: `kv_cache` is its size", "off on the CPU"
    elif any(gpu.unified for gpu in gpus):
        yield "kv_offload", "this GPU has no memory besides the RAM: `kv_cache` is the cache's size", "off"


def candidates(spec: ModelSpec, gpus: Sequence[Gpu]) -> list[Gpu]:
    """The GPUs that the model may get: those that the user named, else all."""
    if isinstance(spec.gpus, tuple):
        return [gpu for name in spec.gpus if (gpu := named(gpus, name))]
    return [gpu for gpu in gpus if not gpu.mig]

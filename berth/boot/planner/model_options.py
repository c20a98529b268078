"""ModelSpec and ModelInfo -> ModelOptions: the settings that engines spell differently, what they change about the
model's memory, and why an engine or a GPU cannot have them. Pure.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.model_spec import EngineSpec, ModelSpec
from berth.engines.base import Drafter, KvDtype, ModelOptions, Speculation
from berth.engines.model_options import LEAST_FP8_KV, NGRAM_TOKENS, SGLANG_TEXT_ONLY, in_arguments
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

Reason = tuple[str, str]  # why not, and what is allowed


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


def known_speculation(info: ModelInfo) -> Speculation | None:
    """What the catalogue knows to work for the model: layers of its own, if this checkpoint has them, or a drafter."""
    entry = info.catalogue
    if entry is None or (draft := entry.model.draft) is None:
        return None
    origin = f"speculation: auto, catalogue: {entry.model.id}"
    if draft.id is None or draft.id.casefold() in (info.source.casefold(), entry.model.id.casefold()):
        own = Speculation(drafter=Drafter.MTP, tokens=draft.tokens or MTP_TOKENS, origin=origin)
        return own if info.draft_layers and draft.method == "mtp" else None
    found = drafted(ModelInfo(source=draft.id), origin=origin)
    return replace(found, tokens=draft.tokens or found.tokens)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One engine of a model, and the GPUs that it may get."""

    spec: ModelSpec
    info: ModelInfo
    options: ModelOptions
    entry: EngineSpec
    gpus: Sequence[Gpu]
    cpu: bool  # the engine is a build for the CPU


def reasons_against(case: Case) -> Iterator[tuple[str, str, str]]:
    """What this engine cannot do here: the setting, the reason and what is allowed. The user's own arguments are not
    checked.
    """
    for setting, check in CHECKS.items():
        if not in_arguments(case.entry.engine, setting, case.entry.args):
            for why, allowed in check(case):
                yield setting, f"{case.entry.engine}: {why}", allowed


def against_speculation(case: Case) -> Iterator[Reason]:
    speculation = case.options.speculation
    if speculation is None or case.spec.speculation == "auto":
        return
    if case.info.task is not Task.GENERATE:
        yield "this model generates no text", "off"
    elif case.entry.engine is EngineName.TRTLLM:
        why = "the names of its settings for speculation are not known to be those of this version"
        yield why, "off or auto with TensorRT-LLM, or vllm, sglang"
    elif speculation.drafter is Drafter.MTP and case.info.cache_layers and not case.info.draft_layers:
        why = "this checkpoint has no layers that predict further tokens (its config.json names none)"
        yield why, "ngram, or the hub id of a draft model"


def against_kv_dtype(case: Case) -> Iterator[Reason]:
    options, engine = case.options, case.entry.engine
    if options.kv_dtype is KvDtype.FP8 and not case.cpu:
        old = [gpu for gpu in case.gpus if gpu.capability < LEAST_FP8_KV]
        if old:
            cards = ", ".join(dict.fromkeys(f"{gpu.name} ({gpu.compute_capability})" for gpu in old))
            needed = ".".join(map(str, LEAST_FP8_KV))
            yield f"an FP8 cache needs compute capability {needed}: {cards}", "auto or 16bit on these GPUs"
    if options.kv_dtype is not KvDtype.SIXTEEN_BITS:
        return
    if case.cpu and options.checkpoint_kv_dtype is None and case.info.dtype == "float32":
        yield "the checkpoint is in float32, and so is the cache of the engine's build for the CPU", "auto"
    if options.checkpoint_kv_dtype is None:
        return
    asks = f"the checkpoint asks for a cache in {options.checkpoint_kv_dtype}"
    if engine is EngineName.TRTLLM:
        yield f"{asks}, which TensorRT-LLM follows", "auto"
    elif engine is EngineName.SGLANG and case.info.dtype == "float16":
        yield f"{asks}, and SGLang has no cache in float16", "auto"
    elif case.cpu:
        yield f"{asks}, which the engine's build for the CPU follows", "auto"


def against_text_only(case: Case) -> Iterator[Reason]:
    if not case.options.text_only:
        return
    if case.entry.engine is EngineName.TRTLLM:
        yield "TensorRT-LLM always loads all of the model", "false, or engines: [vllm]"
    elif case.entry.engine is EngineName.SGLANG and not SGLANG_TEXT_ONLY & {*case.info.architectures}:
        which = ", ".join(case.info.architectures) or "this model"
        yield f"SGLang always loads all of {which}", "false, or engines: [vllm]"


def against_kv_offload(case: Case) -> Iterator[Reason]:
    if not case.options.kv_offload_bytes:
        return
    if case.info.encoder_only:
        yield "this model has no KV cache", "off"
    elif case.cpu or not case.gpus:
        yield "the KV cache is in RAM already: `kv_cache` is its size", "off on the CPU"
    elif any(gpu.unified for gpu in case.gpus):
        yield "this GPU has no memory besides the RAM: `kv_cache` is the cache's size", "off"


CHECKS: dict[str, Callable[[Case], Iterator[Reason]]] = {
    "speculation": against_speculation,
    "kv_dtype": against_kv_dtype,
    "text_only": against_text_only,
    "kv_offload": against_kv_offload,
}


def candidates(spec: ModelSpec, gpus: Sequence[Gpu]) -> list[Gpu]:
    """The GPUs that the model may get: those that the user named, else all."""
    if isinstance(spec.gpus, tuple):
        return [gpu for name in spec.gpus if (gpu := named(gpus, name))]
    return [gpu for gpu in gpus if not gpu.mig]

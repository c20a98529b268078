"""The variants of a model in the catalogue that fit these GPUs, where the model itself does not.

The error names them, ready to paste; nothing is chosen silently. With `variant: auto` the first that fits is taken, the
most exact weights first, and the plan says so.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from berth.boot.catalogue.lookup import ids
from berth.boot.catalogue.schema import Precision, Variant
from berth.boot.checkpoints.metadata import ModelInfo
from berth.boot.config.model_spec import ModelSpec
from berth.boot.config.models import parse_models
from berth.boot.config.settings import Settings
from berth.boot.planner.allocation import allocate, gpu_requests
from berth.boot.planner.fit.gpu_request import Allocation, Entry, GpuRequest
from berth.boot.planner.fit.memory import weights_from_name
from berth.boot.planner.fit.placement import place, usable
from berth.boot.planner.inputs import HostInfo
from berth.boot.planner.resolve import ResolvedModel, resolve_models
from berth.engines.base import Engine
from berth.errors import ConfigError, PlacementError
from berth.plan import EngineName
from berth.units import size

RECIPES_MARGIN = 1.2  # the least memory of a recipe is the size of the files with this factor
MOST_ATTEMPTS = 64  # combinations of variants, where several models ask for `auto`
EXACTNESS = {precision: number for number, precision in enumerate(Precision)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A variant that fits."""

    variant: Variant
    weights_bytes: int
    context: int
    gpus: int

    @property
    def about(self) -> str:
        """What it is, for people."""
        certain = "" if self.variant.weights_bytes else "about "
        count = f" on {self.gpus} GPUs" if self.gpus > 1 else ""
        return (
            f"{self.variant.precision}, {certain}{size(self.weights_bytes)} of weights, context {self.context}{count}"
        )


def allocate_variants(
    models: tuple[ResolvedModel, ...], settings: Settings, host: HostInfo, engines: Mapping[EngineName, Engine]
) -> tuple[tuple[ResolvedModel, ...], dict[Entry, Allocation]]:
    """The models, with variants where `variant: auto` asks for one, and their allocations. PlacementError, with the
    variants that fit, where they do not.
    """
    try:
        return models, allocate(models, settings, host, engines)
    except PlacementError as error:
        first = error
    choices = [tuple(alternatives(model, settings, host)) for model in models]
    ranked = sorted(
        itertools.product(*(range(len(some)) for some in choices)), key=lambda numbers: (sum(numbers), numbers)
    )
    for numbers in ranked[1:MOST_ATTEMPTS]:
        tried = tuple(some[number] for some, number in zip(choices, numbers, strict=True))
        try:
            return tried, allocate(tried, settings, host, engines)
        except PlacementError:
            continue
    offered = [line for model in models for line in lines(model, models, settings, host, engines)]
    raise PlacementError("\n".join((str(first), *offered))) from first


def alternatives(model: ResolvedModel, settings: Settings, host: HostInfo) -> Iterator[ResolvedModel]:
    """The model, and if it asks for one its variants, the most exact first. Those that the hub does not have are left
    out.
    """
    yield model
    if model.spec.variant is None or model.info is None:
        return
    for variant in others(model.info, host):
        spec = replace(model.spec, source=variant.id, revision=None)
        try:
            (found,) = resolve_models(replace(settings, models=(spec,)), host)
        except ConfigError:
            continue
        if found.info is None:
            continue
        note = f"variant: auto chose {variant.id} ({variant.precision}): {model.spec.source} does not fit"
        yield replace(found, info=replace(found.info, warnings=(note, *found.info.warnings)))


def others(info: ModelInfo, host: HostInfo) -> list[Variant]:
    """The variants of the model besides itself that these GPUs have code for, the most exact first. None for a model
    that was only made from one of the catalogue: they would be another model.
    """
    entry = info.catalogue
    if entry is None or info.source.casefold() not in map(str.casefold, ids(entry.model)):
        return []
    gpus = usable(host.inventory.gpus)
    found = [one for one in entry.model.variants if one.id.casefold() != info.source.casefold()]
    able = [
        one for one in found if not gpus or any(gpu.capability >= host.catalogue.least_capability(one) for gpu in gpus)
    ]
    return sorted(able, key=lambda one: EXACTNESS[one.precision])


def lines(
    model: ResolvedModel,
    models: Sequence[ResolvedModel],
    settings: Settings,
    host: HostInfo,
    engines: Mapping[EngineName, Engine],
) -> list[str]:
    """For the error: each variant with which everything would fit, as a line for BERTH_MODELS."""
    requests = [one for each in models if each.info for one in gpu_requests(each, each.info, host, engines)]
    offers = [*fitting(model, [one for one in requests if not one.cpu], settings, host)]
    if not offers:
        return []
    specs = [each.spec for each in models]
    head = f"Variants of {model.spec.source} that would fit (or let Berth choose, with `variant: auto`):"
    return [head, *(f"  - {pasted(specs, model.spec, one.variant.id)}  # {one.about}" for one in offers)]


def fitting(
    model: ResolvedModel, requests: Sequence[GpuRequest], settings: Settings, host: HostInfo
) -> Iterator[Offer]:
    for variant in others(model.info, host) if model.info else ():
        weights_bytes = expected_bytes(variant)
        own = [number for number, one in enumerate(requests) if one.entries[0][0] == model.spec.name]
        if weights_bytes is None or not own:
            continue
        tried = list(requests)
        for number in own:
            info = with_weights(requests[number].info, variant, weights_bytes)
            tried[number] = replace(requests[number], info=info)
        placed = place(tried, host.inventory.gpus, settings.gpu_memory_fraction)
        least = host.catalogue.least_capability(variant)
        if placed and all(gpu.capability >= least for number in own for gpu in placed[number].gpus):
            context = min(placed[number].context for number in own)
            count = max(len(placed[number].gpus) for number in own)
            yield Offer(variant=variant, weights_bytes=weights_bytes, context=context, gpus=count)


def with_weights(info: ModelInfo, variant: Variant, weights_bytes: int) -> ModelInfo:
    """The same model with the weights of a variant: all that is known of it before it is looked up."""
    quantization = None if variant.precision is Precision.BF16 else str(variant.precision)
    return replace(info, source=variant.id, weights_bytes=weights_bytes, quantization=quantization)


def expected_bytes(variant: Variant) -> int | None:
    """As stated; else by the recipe's memory and by the name, whichever is more: recipes count all layers as quantised.
    None: unknown.
    """
    if variant.weights_bytes:
        return variant.weights_bytes
    by_recipe = int(variant.memory_bytes / RECIPES_MARGIN) if variant.memory_bytes else None
    found = [size for size in (by_recipe, weights_from_name(variant.id)) if size]
    return max(found, default=None)


def pasted(specs: Sequence[ModelSpec], spec: ModelSpec, source: str) -> str:
    """BERTH_MODELS with another source for one model, in the short form; where that cannot say all that is set, the
    field to change.
    """
    entries = []
    for one in specs:
        changed = replace(one, source=source, revision=None, variant=None) if one is spec else one
        kinds = ",".join(str(entry.engine) for entry in changed.engines)
        entry = f"{changed.name}={changed.source}" + (f"@{kinds}" if kinds else "")
        try:
            short = parse_models(entry)
        except ConfigError:
            short = ()
        if short != (changed,):
            return f"{spec.name}: source: {source}"
        entries.append(entry)
    return f'BERTH_MODELS="{" ".join(entries)}"'

"""The YAML form of BERTH_MODELS: a mapping from public names to what is wanted of each model.

The `adapters` of a model in BERTH_MODELS: a mapping from public names to LoRA adapters.
"""

import dataclasses
import re
from typing import Any

from berth.boot.config import model_rules as rules
from berth.boot.config import parsers
from berth.boot.config.engine_yaml import engine_list, engine_options, merged
from berth.boot.config.model_rules import Problems, Rule
from berth.boot.config.model_shorthand import model_from, parse_source
from berth.boot.config.model_spec import AdapterSpec, EngineOptions, EngineSpec, ModelSpec
from berth.boot.config.yaml_text import Tree, YamlError, items, mapping, read, scalar, scalars, shown
from berth.plan import EngineName, Standby, Task

EXAMPLE = "chat: {source: Qwen/Qwen3-8B, engines: [vllm, sglang]}"


def _pin(text: str) -> bool:
    if parsers.boolean(text):
        raise ValueError("not in this version: no model is ever unloaded, so every model is pinned")
    return False


def _idle_unload(text: str) -> float:
    parsers.duration(text)
    raise ValueError("not in this version: models stay loaded")


def _revision(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,254}", text) or ".." in text:
        raise ValueError("not a branch, tag or commit")
    return text


def _gpu(text: str) -> int | str:
    """An NVML index or a UUID."""
    if re.fullmatch(r"[0-9]{1,4}", text):
        return int(text)
    if re.fullmatch(r"GPU-[0-9A-Za-z-]{1,80}", text):
        return text
    if text.startswith("MIG-"):
        raise ValueError("a MIG instance: Berth serves on whole GPUs")
    raise ValueError("neither an index nor a UUID")


def _kv_cache(text: str) -> int:
    size_bytes = parsers.size(text)
    if size_bytes < 2**20:
        raise ValueError("less than 1 MiB; is the unit missing?")
    return size_bytes


# The fields that hold one value: the field of ModelSpec (none: never kept) and the rule.
SCALARS: dict[str, tuple[str, Rule[Any]]] = {
    "context": (
        "context",
        Rule(parse=parsers.tokens, allowed="tokens: 32768, 32k (32000), 32K (32768)", example="context: 32768"),
    ),
    "standby": (
        "standby",
        Rule(
            parse=lambda text: Standby(parsers.choice(*Standby)(text)),
            allowed=", ".join(Standby),
            example="standby: cold",
        ),
    ),
    "task": (
        "task",
        Rule(parse=lambda text: Task(parsers.choice(*Task)(text)), allowed=", ".join(Task), example="task: embed"),
    ),
    "revision": (
        "revision",
        Rule(parse=_revision, allowed="a branch, tag or commit of the hub model", example="revision: main"),
    ),
    "kv_cache": (
        "kv_cache_bytes",
        Rule(parse=_kv_cache, allowed="a size with its unit", example="kv_cache: 8GiB"),
    ),
    "concurrency": (
        "concurrency",
        Rule(
            parse=parsers.whole_number(1, 100_000),
            allowed="requests at one engine at once, 1 to 100000",
            example="concurrency: 64",
        ),
    ),
    "pin": ("", Rule(parse=_pin, allowed="false, or leave it out", example="pin: false")),
    "idle_unload": ("", Rule(parse=_idle_unload, allowed="leave it out", example="standby: cold")),
}
OPTION_FIELDS = tuple(str(engine) for engine in rules.STARTED_ENGINES)
FIELDS = ("source", "extra_sources", "engines", "aliases", "adapters", "gpus", *SCALARS, *OPTION_FIELDS)

SOURCE = Rule(parse=str, allowed=rules.SOURCE.allowed, example="source: Qwen/Qwen3-8B")
ALIAS = Rule(parse=rules.public_name, allowed="a list of " + rules.NAME.allowed, example="aliases: [gpt-4o-mini]")
EXTRA_SOURCE = Rule(
    parse=rules.hub_repository, allowed="a list of hub ids, OWNER/NAME", example="extra_sources: [owner/draft-model]"
)
GPU_COUNT = Rule(
    parse=parsers.whole_number(1, 64),
    allowed="a number of GPUs, or a list of indexes or UUIDs",
    example="gpus: 2, or gpus: [0, 1]",
)
LISTS: dict[str, Rule[str]] = {"aliases": ALIAS, "extra_sources": EXTRA_SOURCE}
GPU = Rule(parse=_gpu, allowed="NVML indexes or UUIDs as nvidia-smi -L prints them", example="gpus: [0, 1]")


def parse_yaml(text: str, problems: Problems) -> tuple[ModelSpec, ...]:
    """The models that are right; what is wrong goes to `problems`."""
    try:
        tree = read(text)
    except YamlError as exc:
        problems.add("", "", str(exc), allowed="YAML, a mapping from names to models", example=EXAMPLE)
        return ()
    if not isinstance(tree, dict) or not tree:
        problems.add(
            "", shown(tree), "no mapping from names to models", allowed="YAML, or the short form", example=EXAMPLE
        )
        return ()
    models = [_model(problems, name, fields) for name, fields in tree.items()]
    return tuple(model for model in models if model)


def _model(problems: Problems, name: str, tree: Tree) -> ModelSpec | None:
    before = len(problems.found)
    problems.parse(name, name, rules.NAME)
    if isinstance(tree, str):
        model = parse_source(name, tree, problems, name)
    else:
        fields = mapping(problems, name, tree, known=FIELDS, example=EXAMPLE)
        model = _from_fields(problems, name, fields)
    return model if len(problems.found) == before else None


def _from_fields(problems: Problems, name: str, fields: dict[str, Tree]) -> ModelSpec | None:
    given = _scalars(problems, name, fields)
    options = {
        EngineName(field): engine_options(problems, f"{name}.{field}", fields[field])
        for field in OPTION_FIELDS
        if field in fields
    }
    for field, rule in LISTS.items():
        if field in fields:
            entries = items(problems, f"{name}.{field}", fields[field], rule)
            given[field] = scalars(problems, f"{name}.{field}", entries, rule)
    if "adapters" in fields:
        given["adapters"] = parse_adapters(problems, f"{name}.adapters", fields["adapters"])
    if "gpus" in fields:
        given["gpus"] = _gpus(problems, f"{name}.gpus", fields["gpus"])
    engines = _engines(problems, name, fields, options)
    model = _sourced(problems, name, fields.get("source"), engines) if engines is not None else None
    if model is None:
        return None
    return dataclasses.replace(model, options={} if model.engines else options, **given)


def _scalars(problems: Problems, name: str, fields: dict[str, Tree]) -> dict[str, Any]:
    given = {}
    for field, (attribute, rule) in SCALARS.items():
        value = scalar(problems, f"{name}.{field}", fields[field], rule) if field in fields else None
        if attribute and value is not None:
            given[attribute] = value
    return given


def _gpus(problems: Problems, place: str, tree: Tree) -> int | tuple[int | str, ...] | None:
    if not isinstance(tree, list):
        return scalar(problems, place, tree, GPU_COUNT)
    gpus = scalars(problems, place, tree, GPU)
    if not tree or len(set(gpus)) < len(gpus):
        reason = "the same GPU twice" if tree else "an empty list"
        problems.add(place, str([*gpus]), reason, allowed=GPU.allowed, example=GPU.example)
    return gpus


def _engines(
    problems: Problems, name: str, fields: dict[str, Tree], options: dict[EngineName, EngineOptions]
) -> tuple[EngineSpec, ...] | None:
    """The engine order with the model's options merged in; None where something is wrong with it."""
    before = len(problems.found)
    engines = engine_list(problems, f"{name}.engines", fields["engines"]) if "engines" in fields else ()
    if len(problems.found) > before:
        return None
    unused = options.keys() - {engine.engine for engine in engines} if engines else options.keys() & {EngineName.SIM}
    for engine in sorted(unused):
        problems.add(
            f"{name}.{engine}",
            "",
            f"{engine} is not among the model's engines",
            allowed="options for engines that may run the model (sim only where `engines` names it)",
            example=f"engines: [{engine}]",
        )
    return tuple(merged(engine, options) for engine in engines)


def _sourced(problems: Problems, name: str, tree: Tree, engines: tuple[EngineSpec, ...]) -> ModelSpec | None:
    """The model with its source. There are three cases:
    1. It is given.
    2. It is not needed: every engine is attached or simulated.
    3. The name is a hub id, and the source too.
    """
    place = f"{name}.source"
    if tree is not None:
        source = scalar(problems, place, tree, SOURCE)
        return model_from(name, source, engines, problems, place) if source is not None else None
    if engines and all(engine.engine in (EngineName.REMOTE, EngineName.SIM) for engine in engines):
        return ModelSpec(name=name, source=engines[0].url or name, engines=engines)
    if "/" in name and rules.is_hub_id(name):
        return ModelSpec(name=name, source=name, engines=engines)
    problems.add(place, "", "missing", allowed=SOURCE.allowed, example=SOURCE.example)
    return None


ADAPTER_EXAMPLE = "adapters: {support: owner/support-lora}"
MOST = 128  # of one model: a list to make by hand


def _adapter_source(text: str) -> str:
    return rules.local_source(text) if rules.is_local(text) else rules.hub_repository(text)


ADAPTER_SOURCE = Rule(
    parse=_adapter_source, allowed="a hub id, or a local path that starts with / ./ ../ or ~", example=ADAPTER_EXAMPLE
)


def parse_adapters(problems: Problems, place: str, tree: Tree) -> tuple[AdapterSpec, ...]:
    """Those that are right; what is wrong goes to `problems`."""
    if not isinstance(tree, dict) or not 0 < len(tree) <= MOST:
        reason = "no mapping from names to adapters" if not isinstance(tree, dict) else f"{len(tree)} adapters"
        allowed = f"1 to {MOST} adapters, each with the name that clients ask for"
        problems.add(place, shown(tree), reason, allowed=allowed, example=ADAPTER_EXAMPLE)
        return ()
    found = []
    for name, value in tree.items():
        public = problems.parse(f"{place}.{name}", name, rules.NAME)
        source = scalar(problems, f"{place}.{name}", value, ADAPTER_SOURCE)
        if public is not None and source is not None:
            found.append(AdapterSpec(name=public, source=source))
    return tuple(found)

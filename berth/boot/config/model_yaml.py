"""The YAML form of BERTH_MODELS: a mapping from public names to models, each with its engines and LoRA adapters.

The shape is checked by hand, not by msgspec (it stops at the first error) or pydantic (0.2 s of import, and its errors
would need a translation): an error names the field, its masked value, what is allowed and an example, and all errors
are reported at once. The rules of the single values are the same as in the short form.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from berth.boot.config import model_rules as rules
from berth.boot.config import parsers
from berth.boot.config.engine_yaml import engine_list, engine_options, merged
from berth.boot.config.model_rules import Problems, Rule
from berth.boot.config.model_shorthand import AUTO, model_from, parse_source
from berth.boot.config.model_spec import AdapterSpec, EngineOptions, EngineSpec, ModelSpec
from berth.boot.config.nodes import MOST_NODES
from berth.boot.config.replicas_yaml import check_replicas, replica_counts
from berth.boot.config.yaml_text import Tree, YamlError, items, mapping, masked_tree, read, scalar, scalars
from berth.engines.base import KvDtype
from berth.plan import EngineName, Importance, Load, Standby, Task

EXAMPLE = "chat: {source: Qwen/Qwen3-8B, engines: [vllm, sglang]}"


# The fields with one value: the field of ModelSpec and the rule.
SCALARS: dict[str, tuple[str, Rule[Any]]] = {
    "nodes": (
        "nodes",
        Rule(parse=parsers.whole_number(1, MOST_NODES), allowed="a number of boxes of BERTH_NODES", example="nodes: 2"),
    ),
    "context": (
        "context",
        Rule(parse=parsers.tokens, allowed="tokens: 32768, 32k (32000), 32K (32768)", example="context: 32768"),
    ),
    "standby": (
        "standby",
        Rule(
            parse=parsers.member(Standby),
            allowed=", ".join(Standby),
            example="standby: cold",
        ),
    ),
    "task": (
        "task",
        Rule(parse=parsers.member(Task), allowed=", ".join(Task), example="task: embed"),
    ),
    "revision": (
        "revision",
        Rule(parse=rules.revision, allowed="a branch, tag or commit of the hub model", example="revision: main"),
    ),
    "variant": (
        "variant",
        Rule(parse=parsers.choice("auto"), allowed="auto, or leave it out", example="variant: auto"),
    ),
    "kv_cache": (
        "kv_cache_bytes",
        Rule(parse=rules.kv_cache, allowed="a size with its unit", example="kv_cache: 8GiB"),
    ),
    "speculation": (
        "speculation",
        Rule(
            parse=rules.speculation,
            allowed=f"{', '.join(rules.SPECULATION_WORDS)}, or the hub id or path of a draft model",
            example="speculation: mtp",
        ),
    ),
    "kv_dtype": (
        "kv_dtype",
        Rule(
            parse=parsers.member(KvDtype),
            allowed=", ".join(KvDtype),
            example="kv_dtype: fp8",
        ),
    ),
    "text_only": ("text_only", Rule(parse=parsers.boolean, allowed="true or false", example="text_only: true")),
    "prefix_cache": (
        "prefix_cache",
        Rule(parse=parsers.boolean, allowed="true or false", example="prefix_cache: false"),
    ),
    "kv_offload": (
        "kv_offload_bytes",
        Rule(parse=rules.kv_offload, allowed="a size of RAM with its unit, or off", example="kv_offload: 32GiB"),
    ),
    "concurrency": (
        "concurrency",
        Rule(
            parse=parsers.whole_number(1, 100_000),
            allowed="simultaneous requests per engine, 1 to 100000",
            example="concurrency: 64",
        ),
    ),
    "adapter_slots": (
        "adapter_slots",
        Rule(parse=parsers.whole_number(1, 128), allowed="a number of adapters, 1 to 128", example="adapter_slots: 4"),
    ),
    "adapter_rank": (
        "adapter_rank",
        Rule(parse=parsers.whole_number(1, 512), allowed="a rank, 1 to 512", example="adapter_rank: 16"),
    ),
    "adapter_folder": (
        "adapter_folder",
        Rule(parse=parsers.absolute_path, allowed="a path", example="adapter_folder: /data/adapters/chat"),
    ),
    "sleep": ("sleep", Rule(parse=parsers.boolean, allowed="true or false", example="sleep: true")),
    "load": (
        "load",
        Rule(parse=parsers.member(Load), allowed=", ".join(Load), example="load: on_request"),
    ),
    "idle_unload": (
        "idle_unload_s",
        Rule(parse=parsers.positive_duration, allowed="a duration: 90s, 15m, 2h", example="idle_unload: 15m"),
    ),
    "idle_stop": (
        "idle_stop_s",
        Rule(parse=parsers.positive_duration, allowed="a duration: 15m, 2h, 1d", example="idle_stop: 2h"),
    ),
    "min_residency": (
        "min_residency_s",
        Rule(parse=parsers.positive_duration, allowed="a duration: 30s, 5m", example="min_residency: 30s"),
    ),
    "max_wait": (
        "max_wait_s",
        Rule(parse=parsers.positive_duration, allowed="a duration: 60s, 5m", example="max_wait: 60s"),
    ),
    "drain_timeout": (
        "drain_timeout_s",
        Rule(parse=parsers.duration, allowed="a duration: 90s, 5m, or 0 for no limit", example="drain_timeout: 5m"),
    ),
    "priority": (
        "priority",
        Rule(parse=parsers.member(Importance), allowed=", ".join(Importance), example="priority: high"),
    ),
    "pin": ("pin", Rule(parse=parsers.boolean, allowed="true or false", example="pin: true")),
}
OPTION_FIELDS = tuple(str(engine) for engine in rules.STARTED_ENGINES)
FIELDS = (
    *("source", "extra_sources", "engines", "aliases", "adapters", "gpus", "replicas", "pass_fields"),
    *(*SCALARS, *OPTION_FIELDS),
)

SOURCE = Rule(parse=str, allowed=rules.SOURCE.allowed, example="source: Qwen/Qwen3-8B")
ALIAS = Rule(parse=rules.public_name, allowed="a list of " + rules.NAME.allowed, example="aliases: [gpt-4o-mini]")
EXTRA_SOURCE = Rule(
    parse=rules.hub_repository, allowed="a list of hub ids, OWNER/NAME", example="extra_sources: [owner/draft-model]"
)
PASS_FIELD = Rule(
    parse=rules.field_name,
    allowed="a list of names of request fields, as the engine reads them",
    example="pass_fields: [chat_template]",
)
GPU_COUNT = Rule(
    parse=parsers.whole_number(1, 64),
    allowed="a number of GPUs, or a list of indexes or UUIDs",
    example="gpus: 2, or gpus: [0, 1]",
)
LISTS: dict[str, Rule[str]] = {"aliases": ALIAS, "extra_sources": EXTRA_SOURCE, "pass_fields": PASS_FIELD}
GPU = Rule(parse=rules.gpu, allowed="NVML indexes or UUIDs as nvidia-smi -L prints them", example="gpus: [0, 1]")
ADAPTER_EXAMPLE = "adapters: {support: owner/support-lora}"
MOST_ADAPTERS = 128  # per model: a list written by hand
ADAPTER_SOURCE = Rule(
    parse=rules.adapter_source,
    allowed="a hub id, or a local path that starts with / ./ ../ or ~",
    example=ADAPTER_EXAMPLE,
)


def parse_yaml(text: str, problems: Problems) -> tuple[ModelSpec, ...]:
    """The valid models; everything else is added to `problems`."""
    try:
        tree = read(text)
    except YamlError as exc:
        problems.add("", "", str(exc), allowed="YAML, a mapping from names to models", example=EXAMPLE)
        return ()
    if not isinstance(tree, dict) or not tree:
        reason, allowed = "expected a mapping from names to models", "YAML, or the short form"
        problems.add("", masked_tree(tree), reason, allowed=allowed, example=EXAMPLE)
        return ()
    models = []
    for name, fields in tree.items():
        before = len(problems.found)
        problems.parse(name, name, rules.NAME)
        if isinstance(fields, str):
            model = parse_source(name, fields, problems, name)
        else:
            known = mapping(problems, name, fields, known=FIELDS, example=EXAMPLE)
            model = _parse_fields(problems, name, known)
        if model and len(problems.found) == before:
            models.append(model)
    return tuple(models)


def _parse_fields(problems: Problems, name: str, fields: dict[str, Tree]) -> ModelSpec | None:
    """The model with these fields, all of them known."""
    given: dict[str, Any] = {}
    for field, (attribute, rule) in SCALARS.items():
        value = scalar(problems, f"{name}.{field}", fields[field], rule) if field in fields else None
        if value is not None:
            given[attribute] = value
    check_together(problems, name, given)
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
        given["adapters"] = _parse_adapters(problems, f"{name}.adapters", fields["adapters"])
    if "gpus" in fields:
        place, tree = f"{name}.gpus", fields["gpus"]
        if isinstance(tree, list):
            given["gpus"] = gpus = scalars(problems, place, tree, GPU)
            if not tree or len(set(gpus)) < len(gpus):
                problems.reject(place, str([*gpus]), "duplicate GPU" if tree else "an empty list", GPU)
        else:
            given["gpus"] = scalar(problems, place, tree, GPU_COUNT)
    fields, given["auto"] = without_auto(fields)
    engines = _parse_engines(problems, name, fields, options)
    if "replicas" in fields:
        given |= replica_counts(problems, f"{name}.replicas", fields["replicas"])
        check_replicas(problems, name, given, engines or ())
    model = _with_source(problems, name, fields.get("source"), engines) if engines is not None else None
    return dataclasses.replace(model, options={} if model.engines else options, **given) if model else None


def without_auto(fields: dict[str, Tree]) -> tuple[dict[str, Tree], bool]:
    """`engines: auto`, or a list that begins with it: whether it does, and the fields without it."""
    tree = fields.get("engines")
    if tree != AUTO and not (isinstance(tree, list) and tree[:1] == [AUTO]):
        return fields, False
    rest = {field: value for field, value in fields.items() if field != "engines"}
    if isinstance(tree, list) and tree[1:]:
        rest["engines"] = tree[1:]
    return rest, True


def check_together(problems: Problems, name: str, given: Mapping[str, Any]) -> None:
    """Settings that need others, or exclude them."""
    for field in ("adapter_rank", "adapter_folder"):
        if field in given and "adapter_slots" not in given:
            reason, allowed = "there is no room for adapters that are added later", "with adapter_slots"
            problems.add(f"{name}.{field}", "", reason, allowed=allowed, example="adapter_slots: 4")
    for field in ("idle_unload", "idle_stop", "min_residency", "max_wait", "drain_timeout"):
        if given.get("load") is not Load.ON_REQUEST and f"{field}_s" in given:
            reason = "a model that is always loaded is not unloaded"
            if field == "max_wait":
                reason = "a model that is always loaded does not wait for room"
            problems.add(f"{name}.{field}", "", reason, allowed="with load: on_request", example="load: on_request")
    if "priority" in given and given.get("load") is not Load.ON_REQUEST:
        reason = "a model that is always loaded has its room in any case"
        problems.add(f"{name}.priority", "", reason, allowed="with load: on_request", example="load: on_request")
    if "idle_stop_s" in given and not given.get("sleep"):
        reason = "its engines cannot be put to sleep"
        problems.add(f"{name}.idle_stop", "", reason, allowed="with sleep: true", example="sleep: true")
    if given.get("load") is Load.ON_REQUEST and given.get("pin"):
        reason = "a pinned model is always loaded"
        problems.add(f"{name}.pin", "true", reason, allowed="without load: on_request", example="load: always")


def _parse_adapters(problems: Problems, place: str, tree: Tree) -> tuple[AdapterSpec, ...]:
    """The valid adapters; everything else is added to `problems`."""
    if not isinstance(tree, dict) or not 0 < len(tree) <= MOST_ADAPTERS:
        reason = f"{len(tree)} adapters" if isinstance(tree, dict) else "expected a mapping from names to adapters"
        allowed = f"1 to {MOST_ADAPTERS} adapters, each with the name that clients request"
        problems.add(place, masked_tree(tree), reason, allowed=allowed, example=ADAPTER_EXAMPLE)
        return ()
    found = []
    for name, value in tree.items():
        public = problems.parse(f"{place}.{name}", name, rules.NAME)
        source = scalar(problems, f"{place}.{name}", value, ADAPTER_SOURCE)
        if public is not None and source is not None:
            found.append(AdapterSpec(name=public, source=source))
    return tuple(found)


def _parse_engines(
    problems: Problems, name: str, fields: dict[str, Tree], options: dict[EngineName, EngineOptions]
) -> tuple[EngineSpec, ...] | None:
    """The engine order with the model's options merged in; None if it has a problem."""
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
            allowed="options for engines that may run the model (sim only if `engines` names it)",
            example=f"engines: [{engine}]",
        )
    return tuple(merged(engine, options) for engine in engines)


def _with_source(problems: Problems, name: str, tree: Tree, engines: tuple[EngineSpec, ...]) -> ModelSpec | None:
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
    problems.reject(place, "", "missing", SOURCE)
    return None

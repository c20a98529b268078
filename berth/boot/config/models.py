"""BERTH_MODELS: reads either form, then checks the rules between fields and between models."""

import re
from dataclasses import replace

from berth.boot.config.model_rules import NAME, Problems, is_hub_id
from berth.boot.config.model_shorthand import parse_line
from berth.boot.config.model_spec import EngineOptions, EngineSpec, ModelSpec
from berth.boot.config.model_yaml import parse_yaml
from berth.boot.config.parsers import masked_url
from berth.boot.config.yaml_text import LARGEST_TEXT, masked
from berth.engines.base import KvDtype
from berth.engines.registry import sleep
from berth.errors import ConfigError
from berth.plan import DialectName, EngineName, Load, Standby
from berth.units import size

__all__ = ["EngineOptions", "EngineSpec", "ModelSpec", "masked_models", "parse_models"]

EXAMPLE = 'BERTH_MODELS="Qwen/Qwen3-8B", or BERTH_MODELS="chat=Qwen/Qwen3-8B@vllm,sglang"'
WARM_EXAMPLE = "engines: [vllm, sglang]"

ADAPTING = (DialectName.VLLM, DialectName.SGLANG)  # they reject requests for an adapter that they do not have

_SLEEPERS = ("vllm", "sglang", "sim:vllm", "sim:sglang")
_YAML_START = "{[?#%-&*!|>'\""  # no entry of the short form begins like this


def parse_models(text: str) -> tuple[ModelSpec, ...]:
    """The models in their order. Raises ConfigError with every problem. Reads the files that `api_key_file` names."""
    problems = Problems()
    text = text.strip()
    models: tuple[ModelSpec, ...] = ()
    if not text:
        problems.add("", "", "no model given", allowed="at least one model", example=EXAMPLE)
    elif len(text) > LARGEST_TEXT:
        problems.add("", "", "too long", allowed=f"at most {LARGEST_TEXT} characters", example=EXAMPLE)
    else:
        models = parse_yaml(text, problems) if _is_yaml(text) else parse_line(text, problems)
    for model in models:
        check_model(model, problems)
    _check_names(models, problems)
    if problems.found:
        raise ConfigError(problems.found)
    return models


def masked_models(text: str) -> str:
    """BERTH_MODELS with *** in place of keys and passwords."""
    return masked_url(masked(text) if _is_yaml(text.strip()) else text)


def _is_yaml(text: str) -> bool:
    """A mapping has a colon before white space, which no entry of the short form has."""
    return text.startswith(tuple(_YAML_START)) or re.search(r":(\s|\Z)", text) is not None


def check_model(model: ModelSpec, problems: Problems) -> None:
    """The rules between the fields of one model."""
    if model.revision and not is_hub_id(model.source):
        problems.add(
            f"{model.name}.revision",
            model.revision,
            "only hub models have revisions",
            allowed="with a hub id as source",
            example="source: Qwen/Qwen3-8B",
        )
    check_engine_fields(model, problems)
    if model.nodes > 1:
        check_nodes(model, problems)
    if model.standby is Standby.WARM and len(model.engines) < 2:
        problems.add(
            f"{model.name}.standby",
            model.standby,
            "no second engine that could sleep while the first serves",
            allowed="warm with two or more engines, in their order",
            example=WARM_EXAMPLE,
        )
    for index in range(len(model.engines)):
        _check_engine(model, index, problems)


def check_nodes(model: ModelSpec, problems: Problems) -> None:
    """What an engine that runs on several boxes cannot have. They start and stop it together, as one."""
    refused: dict[EngineName, str] = {
        EngineName.TRTLLM: "TensorRT-LLM starts its ranks with mpirun, which would need a shell on the other boxes",
        EngineName.REMOTE: "an attached engine runs where it runs",
    }
    for reason in (refused[entry.engine] for entry in model.engines if entry.engine in refused):
        allowed = "with nodes: one of vllm, sglang"
        problems.add(f"{model.name}.nodes", str(model.nodes), reason, allowed=allowed, example="engines: [vllm]")
    dialects = [entry for entry in model.engines if entry.dialect is DialectName.TRTLLM]
    if dialects:
        reason, allowed = "TensorRT-LLM cannot run on several boxes", "with nodes: sim:vllm, sim:sglang"
        problems.add(f"{model.name}.nodes", str(model.nodes), reason, allowed=allowed, example="engines: ['sim:vllm']")
    excluded = {
        "engines": (len(model.engines) > 1, "one engine: the boxes start and stop it together"),
        "standby": (model.standby is not Standby.COLD, "standby: cold"),
        "replicas": (model.replicas > 1, "one replica"),
        "sleep": (model.sleep, "sleep: false"),
        "load": (model.load is not Load.ALWAYS, "load: always"),
    }
    for field, (given, allowed) in excluded.items():
        if given:
            reason = f"this model runs on {model.nodes} boxes"
            problems.add(f"{model.name}.{field}", "", reason, allowed=f"with nodes: {allowed}", example="nodes: 1")


def check_engine_fields(model: ModelSpec, problems: Problems) -> None:
    """Settings that only an engine started by Berth can have, and one that needs another."""
    if model.engines and all(engine.engine is EngineName.REMOTE for engine in model.engines):
        given = {
            "extra_sources": model.extra_sources,
            "gpus": model.gpus,
            "kv_cache": model.kv_cache_bytes,
            "speculation": model.speculation != "off",
            "kv_dtype": model.kv_dtype is not KvDtype.AUTO,
            "text_only": model.text_only,
            "prefix_cache": model.prefix_cache is not None,
            "kv_offload": model.kv_offload_bytes,
        }
        for field in (field for field, value in given.items() if value):
            problems.add(
                f"{model.name}.{field}",
                "",
                "Berth does not start this model's engines, they are attached by URL",
                allowed="for models with an engine that Berth starts",
                example="engines: [vllm, {url: 'http://127.0.0.1:9100/v1'}]",
            )
    if model.kv_offload_bytes and model.prefix_cache is False:
        problems.add(
            f"{model.name}.kv_offload",
            size(model.kv_offload_bytes),
            "without a prefix cache there is nothing to keep in RAM",
            allowed="with prefix_cache: true, or without kv_offload",
            example="prefix_cache: true",
        )


def _check_engine(model: ModelSpec, index: int, problems: Problems) -> None:
    """The rules between a model and one of its engines."""
    engine = model.engines[index]
    place = f"{model.name}.engines[{index}]"
    name = engine.url or (f"{engine.engine}:{engine.dialect}" if engine.dialect else str(engine.engine))
    attached, simulated = engine.engine is EngineName.REMOTE, engine.engine is EngineName.SIM
    # Hot or warm copies of an engine are useful, and so are several simulated ones; a second cold one is not.
    may_repeat = simulated or (model.standby is not Standby.COLD and not attached)
    if not may_repeat and engine in [replace(other, share=engine.share) for other in model.engines[:index]]:
        allowed = "each engine once, or with other args"
        problems.add(place, engine.engine, "duplicate engine", allowed=allowed, example="engines: [vllm, sglang]")
    if engine.share != 1 and model.standby is not Standby.HOT:
        reason, allowed = "only one engine serves this model at a time", "with standby: hot, where all engines serve"
        problems.add(f"{place}.share", f"{engine.share:g}", reason, allowed=allowed, example="standby: hot")
    # All engines after the first sleep while it serves, so they must support sleep mode.
    if model.standby is Standby.WARM and (attached or (index and sleep(engine.engine, engine.dialect) is None)):
        stopped = "attached servers cannot sleep, and Berth cannot stop them"
        reason = stopped if attached else "TensorRT-LLM cannot sleep"
        allowed = f"with standby: warm engines that Berth starts, after the first one {', '.join(_SLEEPERS)}"
        problems.add(place, name, reason, allowed=allowed, example=WARM_EXAMPLE)
    dialect = engine.dialect or (DialectName.OPENAI if attached else DialectName.VLLM)
    if model.adapters and (attached or simulated) and dialect not in ADAPTING:
        problems.add(
            place,
            name,
            "it might respond without the requested adapter",
            allowed=f"with adapters, attached and simulated engines of the dialects {', '.join(ADAPTING)}",
            example="engines: [vllm, {url: 'http://127.0.0.1:9100/v1', dialect: vllm}]",
        )


def _check_names(models: tuple[ModelSpec, ...], problems: Problems) -> None:
    """Every name once. Names of models come first and aliases last, so that the alias is the one reported."""
    places = [(model.name, model.name) for model in models]
    for model in models:
        places += [(f"{model.name}.adapters.{adapter.name}", adapter.name) for adapter in model.adapters]
    for model in models:
        places += [(f"{model.name}.aliases[{index}]", alias) for index, alias in enumerate(model.aliases)]
    taken: set[str] = set()
    for place, name in places:
        if name in taken:
            reason = "another model, adapter or alias has this name"
            problems.add(place, name, reason, allowed="each name once", example=NAME.example)
        taken.add(name)

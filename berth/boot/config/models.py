"""BERTH_MODELS: what the user wants served, read from either of its forms and checked as a whole."""

import re
from dataclasses import replace

from berth.boot.config.model_rules import NAME, Problems, is_hub_id
from berth.boot.config.model_shorthand import parse_line
from berth.boot.config.model_spec import EngineOptions, EngineSpec, ModelSpec
from berth.boot.config.model_yaml import parse_yaml
from berth.boot.config.parsers import masked_url
from berth.boot.config.yaml_text import LARGEST_TEXT, masked
from berth.engines.registry import sleep
from berth.errors import ConfigError
from berth.plan import DialectName, EngineName, Standby

__all__ = ["EngineOptions", "EngineSpec", "ModelSpec", "masked_models", "parse_models"]

EXAMPLE = 'BERTH_MODELS="Qwen/Qwen3-8B", or BERTH_MODELS="chat=Qwen/Qwen3-8B@vllm,sglang"'
WARM_EXAMPLE = "engines: [vllm, sglang]"

ADAPTING = (DialectName.VLLM, DialectName.SGLANG)  # they refuse what names an adapter that they do not have

_SLEEPERS = ("vllm", "sglang", "sim:vllm", "sim:sglang")
_YAML_START = "{[?#%-&*!|>'\""  # no entry of the short form begins like this


def parse_models(text: str) -> tuple[ModelSpec, ...]:
    """The models in their order. Raises ConfigError with every problem. Reads the files that `api_key_file` names."""
    problems = Problems()
    models = _parse(text.strip(), problems)
    for model in models:
        _check(model, problems)
    _check_names(models, problems)
    if problems.found:
        raise ConfigError(problems.found)
    return models


def masked_models(text: str) -> str:
    """BERTH_MODELS for people to read: with *** in place of keys and passwords."""
    return masked_url(masked(text) if _is_yaml(text.strip()) else text)


def _is_yaml(text: str) -> bool:
    """A mapping has a colon before white space, which no entry of the short form has."""
    return text.startswith(tuple(_YAML_START)) or re.search(r":(\s|\Z)", text) is not None


def _parse(text: str, problems: Problems) -> tuple[ModelSpec, ...]:
    if not text:
        problems.add("", "", "no model in it", allowed="at least one model", example=EXAMPLE)
        return ()
    if len(text) > LARGEST_TEXT:
        problems.add("", "", "too long", allowed=f"at most {LARGEST_TEXT} characters", example=EXAMPLE)
        return ()
    return parse_yaml(text, problems) if _is_yaml(text) else parse_line(text, problems)


def _check(model: ModelSpec, problems: Problems) -> None:
    """What fields say about each other."""
    if model.revision and not is_hub_id(model.source):
        problems.add(
            f"{model.name}.revision",
            model.revision,
            "only a hub model has revisions",
            allowed="with a hub id as source",
            example="source: Qwen/Qwen3-8B",
        )
    if model.engines and all(engine.engine is EngineName.REMOTE for engine in model.engines):
        _check_attached(model, problems)
    _check_order(model, problems)
    _check_shares(model, problems)
    if model.standby is Standby.WARM:
        _check_warm(model, problems)
    if model.adapters:
        _check_adapted(model, problems)


def _check_adapted(model: ModelSpec, problems: Problems) -> None:
    """Each engine must know the adapters, or say that it does not: another would answer without them."""
    for index, engine in enumerate(model.engines):
        attached = engine.engine is EngineName.REMOTE
        dialect = engine.dialect or (DialectName.OPENAI if attached else DialectName.VLLM)
        if engine.engine in (EngineName.REMOTE, EngineName.SIM) and dialect not in ADAPTING:
            problems.add(
                f"{model.name}.engines[{index}]",
                engine.url or _word(engine),
                "it might answer without the adapter that was asked for",
                allowed=f"with adapters, attached and simulated engines of the dialects {', '.join(ADAPTING)}",
                example="engines: [vllm, {url: 'http://127.0.0.1:9100/v1', dialect: vllm}]",
            )


def _check_attached(model: ModelSpec, problems: Problems) -> None:
    given = {
        "extra_sources": model.extra_sources,
        "gpus": model.gpus,
        "kv_cache": model.kv_cache_bytes,
    }
    for field in (field for field, value in given.items() if value):
        problems.add(
            f"{model.name}.{field}",
            "",
            "Berth does not start this model's engines, they are attached by URL",
            allowed="for models with an engine that Berth starts",
            example="engines: [vllm, {url: 'http://127.0.0.1:9100/v1'}]",
        )


def _check_order(model: ModelSpec, problems: Problems) -> None:
    """The same engine twice in a row of fallbacks helps nobody; as copies (hot, warm), or simulated, it does."""
    for index, engine in enumerate(model.engines):
        copies = engine.engine is EngineName.SIM or (
            model.standby is not Standby.COLD and engine.engine is not EngineName.REMOTE
        )
        before = [replace(other, share=engine.share) for other in model.engines[:index]]
        if engine in before and not copies:
            problems.add(
                f"{model.name}.engines[{index}]",
                engine.engine,
                "the same engine again",
                allowed="each engine once, or with other args",
                example="engines: [vllm, sglang]",
            )


def _check_shares(model: ModelSpec, problems: Problems) -> None:
    if model.standby is Standby.HOT:
        return
    for index, engine in enumerate(model.engines):
        if engine.share != 1:
            problems.add(
                f"{model.name}.engines[{index}].share",
                f"{engine.share:g}",
                "one engine after the other serves this model",
                allowed="with standby: hot, where all serve",
                example="standby: hot",
            )


def _check_warm(model: ModelSpec, problems: Problems) -> None:
    """All engines after the first sleep while it serves, so they must be able to."""
    if len(model.engines) < 2:
        problems.add(
            f"{model.name}.standby",
            model.standby,
            "there is no second engine that could sleep while the first serves",
            allowed="warm with two or more engines, in their order",
            example=WARM_EXAMPLE,
        )
    for index, engine in enumerate(model.engines):
        reason = _why_no_sleeper(engine, index)
        if reason:
            problems.add(
                f"{model.name}.engines[{index}]",
                engine.url or _word(engine),
                reason,
                allowed=f"with standby: warm engines that Berth starts, after the first one {', '.join(_SLEEPERS)}",
                example=WARM_EXAMPLE,
            )


def _why_no_sleeper(engine: EngineSpec, index: int) -> str:
    if engine.engine is EngineName.REMOTE:
        return "an attached server can neither be put to sleep nor be stopped"
    able = index == 0 or sleep(engine.engine, engine.dialect) is not None
    return "" if able else "TensorRT-LLM cannot sleep"


def _word(engine: EngineSpec) -> str:
    return f"{engine.engine}:{engine.dialect}" if engine.dialect else str(engine.engine)


def _check_names(models: tuple[ModelSpec, ...], problems: Problems) -> None:
    taken: set[str] = set()
    for place, name in _names(models):
        if name in taken:
            problems.add(
                place,
                name,
                "another model, adapter or alias has this name",
                allowed="each name once",
                example=NAME.example,
            )
        taken.add(name)


def _names(models: tuple[ModelSpec, ...]) -> list[tuple[str, str]]:
    """Every name with its place; those of models first and aliases last, so that an alias is the one to change."""
    names = [(model.name, model.name) for model in models]
    adapters = [(f"{model.name}.adapters.{one.name}", one.name) for model in models for one in model.adapters]
    aliases = [
        (f"{model.name}.aliases[{index}]", alias) for model in models for index, alias in enumerate(model.aliases)
    ]
    return names + adapters + aliases

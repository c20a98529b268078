"""The short form of BERTH_MODELS: `[NAME=]SOURCE[@ENGINE[,ENGINE...]]`, entries separated by white space."""

import dataclasses
import re

from berth.boot.config import model_rules as rules
from berth.boot.config.model_rules import Problems
from berth.boot.config.model_spec import EngineSpec, ModelSpec
from berth.boot.config.parsers import did_you_mean, masked_url
from berth.plan import DialectName, EngineName

# What the engine list after a URL means: which dialect is spoken there.
ATTACHED_DIALECTS = {
    EngineName.VLLM: DialectName.VLLM,
    EngineName.SGLANG: DialectName.SGLANG,
    EngineName.TRTLLM: DialectName.TRTLLM,
}

_ENGINE_LIST = re.compile(r"[A-Za-z0-9_.:,-]*")


def parse_line(text: str, problems: Problems) -> tuple[ModelSpec, ...]:
    """The models of all entries that are right; what is wrong goes to `problems`."""
    models = (_entry(entry, problems) for entry in text.split())
    return tuple(model for model in models if model)


def parse_source(name: str, text: str, problems: Problems, place: str) -> ModelSpec | None:
    """The model `name` from `SOURCE[@ENGINE[,ENGINE...]]`."""
    source, engine_list = split_engines(text)
    engines = _engines(engine_list, problems, place)
    if engines is None:
        return None
    return model_from(name, source, engines, problems, place)


def model_from(
    name: str, source: str, engines: tuple[EngineSpec, ...], problems: Problems, place: str
) -> ModelSpec | None:
    """A model whose source is a hub id, a path or a URL. On a URL the engine says which dialect is spoken there."""
    if rules.is_url(source):
        url = problems.parse(place, source, rules.URL)
        attached = _attached(url or "", engines, problems, place)
        return ModelSpec(name=name, source=source, engines=(attached,)) if url and attached else None
    simulated = bool(engines) and all(engine.engine is EngineName.SIM for engine in engines)
    rule = dataclasses.replace(rules.SOURCE, parse=lambda text: rules.model_source(text, simulated=simulated))
    parsed = problems.parse(place, source, rule)
    return ModelSpec(name=name, source=parsed, engines=engines) if parsed else None


def split_name(entry: str) -> tuple[str | None, str]:
    """NAME and the rest. A path or a URL without a name may hold `=` itself."""
    name, equals, rest = entry.partition("=")
    if not equals or "://" in name or rules.is_local(name):
        return None, entry
    return name, rest


def split_engines(text: str) -> tuple[str, str | None]:
    """SOURCE and the engine list after the last `@`; None where there is none.

    There are three cases:
    1. A URL may hold a user name before an `@`: only a list of engines counts.
    2. A path may hold an `@`: what looks like no engine at all is part of it.
    3. Nothing else may hold one.
    """
    source, at, tail = text.rpartition("@")
    if not at:
        return text, None
    if rules.is_url(text) and not all(_names_engine(word) for word in tail.split(",")):
        return text, None
    if rules.is_local(text) and not (_ENGINE_LIST.fullmatch(tail) and _resembles_engines(tail)):
        return text, None
    return source, tail


def _entry(entry: str, problems: Problems) -> ModelSpec | None:
    name, rest = split_name(entry)
    if name is None and rules.is_url(rest):
        problems.add(
            masked_url(entry),
            "",
            "an attached server needs a name",
            allowed="NAME=URL",
            example="chat=http://127.0.0.1:9100/v1",
        )
        return None
    if name is not None and problems.parse(masked_url(entry), name, rules.NAME) is None:
        return None
    model = parse_source(name or _default_name(rest), rest, problems, name or masked_url(entry))
    if model and name is None and problems.parse(masked_url(entry), model.name, rules.NAME) is None:
        return None
    return model


def _default_name(text: str) -> str:
    return rules.default_name(split_engines(text)[0])


def _engines(engine_list: str | None, problems: Problems, place: str) -> tuple[EngineSpec, ...] | None:
    if engine_list is None:
        return ()
    engines = [problems.parse(place, word, rules.ENGINE) for word in engine_list.split(",")]
    return tuple(engine for engine in engines if engine) if None not in engines else None


def _attached(url: str, engines: tuple[EngineSpec, ...], problems: Problems, place: str) -> EngineSpec | None:
    if not engines:
        return EngineSpec(engine=EngineName.REMOTE, url=url)
    dialect = ATTACHED_DIALECTS.get(engines[0].engine)
    if dialect and engines == (EngineSpec(engine=engines[0].engine),):
        return EngineSpec(engine=EngineName.REMOTE, url=url, dialect=dialect)
    problems.add(
        place,
        ", ".join(engine.engine for engine in engines),
        "a source that is a URL is one server with one dialect",
        allowed="vllm, sglang or trtllm after the URL; several servers in the YAML form, without a source",
        example="chat: {engines: [{url: 'http://127.0.0.1:9100/v1', dialect: vllm}]}",
    )
    return None


def _names_engine(word: str) -> bool:
    try:
        rules.engine_entry(word)
    except ValueError:
        return False
    return True


def _resembles_engines(tail: str) -> bool:
    names = (word.partition(":")[0].lower() for word in tail.split(","))
    return any(name in rules.STARTED_ENGINES or did_you_mean(name, rules.STARTED_ENGINES) for name in names)

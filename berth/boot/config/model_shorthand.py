"""The short form of BERTH_MODELS: `[NAME=]SOURCE[@ENGINE[,ENGINE...]]`, entries separated by white space."""

import dataclasses
import re

from berth.boot.config import model_rules as rules
from berth.boot.config.model_rules import Problems, Rule
from berth.boot.config.model_spec import EngineSpec, ModelSpec
from berth.boot.config.parsers import did_you_mean, masked_url, member
from berth.plan import DialectName, EngineName

# After a URL, the engine names the dialect of the server.
ATTACHED_DIALECTS = {
    EngineName.VLLM: DialectName.VLLM,
    EngineName.SGLANG: DialectName.SGLANG,
    EngineName.TRTLLM: DialectName.TRTLLM,
}


def attached_entry(text: str) -> EngineSpec:
    """The dialect after a URL. An engine has the name of its dialect."""
    if text in set(EngineName) and text not in set(DialectName):
        return rules.engine_entry(text)
    return EngineSpec(engine=EngineName.REMOTE, dialect=member(DialectName)(text))


ATTACHED = Rule(parse=attached_entry, allowed=", ".join(DialectName), example="chat=http://127.0.0.1:9100/v1@vllm")
AUTO = "auto"  # as `berth bench` has found: before the engines, or alone
_ENGINE_LIST = re.compile(r"[A-Za-z0-9_.:,-]*")


def parse_line(text: str, problems: Problems) -> tuple[ModelSpec, ...]:
    """The valid models; everything else is added to `problems`."""
    models = []
    for entry in text.split():
        name, rest = split_name(entry)
        if name is None and rules.is_url(rest):
            reason, example = "an attached server needs a name", "chat=http://127.0.0.1:9100/v1"
            problems.add(masked_url(entry), "", reason, allowed="NAME=URL", example=example)
            continue
        public = rules.default_name(split_engines(rest)[0]) if name is None else name
        if name is not None and problems.parse(masked_url(entry), name, rules.NAME) is None:
            continue
        model = parse_source(public, rest, problems, name or masked_url(entry))
        if model and (name is not None or problems.parse(masked_url(entry), public, rules.NAME) is not None):
            models.append(model)
    return tuple(models)


def parse_source(name: str, text: str, problems: Problems, place: str) -> ModelSpec | None:
    """The model `name` from `SOURCE[@ENGINE[,ENGINE...]]`."""
    source, engine_list = split_engines(text)
    names = [] if engine_list is None else engine_list.split(",")
    auto = names[:1] == [AUTO] and not rules.is_url(source)
    names = names[1:] if auto else names
    rule = ATTACHED if rules.is_url(source) else rules.ENGINE
    parsed = [problems.parse(place, word, rule) for word in names]
    engines = tuple(engine for engine in parsed if engine)
    model = model_from(name, source, engines, problems, place) if len(engines) == len(names) else None
    return dataclasses.replace(model, auto=auto) if model else None


def model_from(
    name: str, source: str, engines: tuple[EngineSpec, ...], problems: Problems, place: str
) -> ModelSpec | None:
    """A model whose source is a hub id, a path or a URL. After a URL, the engine names the dialect of the server."""
    if rules.is_url(source):
        url = problems.parse(place, source, rules.URL)
        first = engines[0] if engines else EngineSpec(engine=EngineName.REMOTE)
        dialect = first.dialect or ATTACHED_DIALECTS.get(first.engine)
        if engines and (dialect is None or engines != (EngineSpec(engine=first.engine, dialect=first.dialect),)):
            problems.add(
                place,
                ", ".join(engine.dialect or engine.engine for engine in engines),
                "a URL is one server with one dialect",
                allowed="one dialect after the URL; several servers in the YAML form, without a source",
                example="chat: {engines: [{url: 'http://127.0.0.1:9100/v1', dialect: vllm}]}",
            )
            return None
        attached = EngineSpec(engine=EngineName.REMOTE, url=url, dialect=dialect)
        return ModelSpec(name=name, source=source, engines=(attached,)) if url else None
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
    """SOURCE and the engine list after the last `@`; None if there is none.

    There are three cases:
    1. A URL may contain a user name before an `@`: only a list of engines counts.
    2. A path may contain an `@`: a tail that does not resemble engines is part of it.
    3. Nothing else may contain one.
    """
    source, at, tail = text.rpartition("@")
    if not at:
        return text, None
    if rules.is_url(text):
        if not all(word in set(DialectName) or word in rules.STARTED_ENGINES for word in tail.split(",")):
            return text, None
    elif rules.is_local(text):
        names = [word.partition(":")[0].lower() for word in tail.split(",")]
        known = (*rules.STARTED_ENGINES, AUTO)
        if not _ENGINE_LIST.fullmatch(tail) or not any(name in known or did_you_mean(name, known) for name in names):
            return text, None
    return source, tail

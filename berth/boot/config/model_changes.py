"""What a migration may change in the entry of a model: `berth migrate MODEL --set FIELD=VALUE --source SOURCE`. Pure.

A change is one line: "context=32768", "source=/models/new", "engines[1].args=--max-num-seqs 64". An empty value is what
Berth chooses by itself. Lines are kept in the revision, and applied to what BERTH_MODELS says.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

from berth.boot.config import model_rules as rules
from berth.boot.config.engine_yaml import ARGUMENT
from berth.boot.config.model_rules import Problems
from berth.boot.config.model_shorthand import model_from
from berth.boot.config.model_spec import EngineOptions, ModelSpec
from berth.boot.config.model_yaml import SCALARS
from berth.boot.config.models import check_model
from berth.boot.config.parsers import did_you_mean
from berth.errors import ConfigError
from berth.plan import EngineName

SET: Final = "--set"
SOURCE: Final = "--source"
SOURCE_EXAMPLE: Final = "--source Qwen/Qwen3-8B@v1.0"
# Those that only the engine's command line depends on. What routers and control work by needs a restart.
OPTIONS: Final = (
    *("revision", "context", "concurrency", "kv_cache", "kv_dtype", "speculation", "text_only", "prefix_cache"),
    "kv_offload",
)
ARGS: Final = re.compile(r"(?:engines\[(?P<place>[0-9]+)\]|(?P<engine>[a-z]+(?::[a-z]+)?))\.args|args")
EXAMPLE: Final = "--set 'args=--max-num-seqs 64'"
ALLOWED: Final = f"args, {', '.join(OPTIONS)}; anything else is changed in BERTH_MODELS, and by a restart"


def requested(
    spec: ModelSpec, engine: str, before: Sequence[str], texts: Sequence[str], source: str
) -> tuple[str, ...]:
    """All changes of a revision: those `before`, and what is requested now. `spec`: of BERTH_MODELS. `engine`: whose
    arguments are meant, "vllm", or by its place, "engines[1]". ConfigError with all problems.
    """
    problems, sources, lines = Problems(SET), Problems(SOURCE), _table(before)
    for text in texts:
        name, equals, value = text.partition("=")
        adds = name.endswith("+")
        name = name.removesuffix("+").strip()
        is_args = ARGS.fullmatch(name) is not None
        if not equals or not (is_args or (name in OPTIONS and not adds)):
            reason = f"no field that a migration can change{did_you_mean(name, ('args', *OPTIONS))}"
            if not equals or adds:
                reason = "expected FIELD=VALUE, or args+=WORDS"
            problems.add("", text, reason, allowed=ALLOWED, example=EXAMPLE)
        elif is_args:
            known = _args(changed(spec, _lines(lines)), engine) if adds else ()
            lines[f"{engine}.args"] = shlex.join((*known, *_words(problems, text, value)))
        else:
            lines[name] = value.strip()
    if source:
        name, _at, revision = source.partition("@") if rules.is_hub_id(source.partition("@")[0]) else (source, "", "")
        lines.pop("revision", None)  # of the source before
        lines |= {"source": name} | ({"revision": revision} if revision else {})
        if revision:
            sources.parse("revision", revision, replace(SCALARS["revision"][1], example=SOURCE_EXAMPLE))
    if found := [*problems.found, *sources.found]:
        raise ConfigError(found)
    changes = _lines(lines)
    changed(spec, changes)
    return changes


def changed(spec: ModelSpec, changes: Sequence[str]) -> ModelSpec:
    """The model with the changes of a revision. ConfigError where one of them is not valid."""
    problems, sources, lines = Problems(SET), Problems(SOURCE), _table(changes)
    defaults = {one.name: one.default for one in fields(ModelSpec)}
    for name, text in sorted(lines.items(), key=lambda line: line[0] != "source"):  # a revision is one of the source
        if match := ARGS.fullmatch(name):
            spec = _with_args(spec, match, text, problems)
        elif name == "source":
            model = model_from(spec.name, text, spec.engines, sources, "")
            spec = replace(spec, source=model.source, revision=None) if model else spec
        elif name in OPTIONS:
            attribute, rule = SCALARS[name]
            rule = replace(rule, example=f"{SET} {rule.example.replace(': ', '=')}")
            value: Any = problems.parse(f"{spec.name}.{name}", text, rule) if text else defaults[attribute]
            spec = replace(spec, **{attribute: value})
        else:
            problems.add("", name, "unknown to this Berth", allowed=ALLOWED, example=EXAMPLE)
    if not problems.found:
        check_model(spec, problems)
    if found := [*problems.found, *sources.found]:
        raise ConfigError(found)
    return spec


def _with_args(spec: ModelSpec, match: re.Match[str], text: str, problems: Problems) -> ModelSpec:
    words = tuple(_words(problems, f"{match[0]}={text}", text))
    if match["place"] is not None and int(match["place"]) < len(spec.engines):
        place = int(match["place"])
        entry = replace(spec.engines[place], args=words)
        return replace(spec, engines=(*spec.engines[:place], entry, *spec.engines[place + 1 :]))
    if match["engine"] is not None and match["engine"] in set(EngineName):
        name = EngineName(match["engine"])
        options = replace(spec.options.get(name, EngineOptions()), args=words)
        return replace(spec, options={**spec.options, name: options})
    problems.add("", match[0], "no engine of the model", allowed=ALLOWED, example=EXAMPLE)
    return spec


def _args(spec: ModelSpec, engine: str) -> tuple[str, ...]:
    """What the engine has by now."""
    match = ARGS.fullmatch(f"{engine}.args")
    if match is not None and match["place"] is not None:
        return spec.engines[int(match["place"])].args
    return spec.options.get(EngineName(engine), EngineOptions()).args


def _words(problems: Problems, text: str, value: str) -> list[str]:
    try:
        words = shlex.split(value)
    except ValueError as error:
        problems.add("", text, str(error), allowed="words as in a shell", example=EXAMPLE)
        return []
    rule = replace(ARGUMENT, example=EXAMPLE)
    return [word for word in words if problems.parse("args", word, rule) is not None]


def _table(changes: Sequence[str]) -> dict[str, str]:
    return {name: text for name, _equals, text in (line.partition("=") for line in changes)}


def _lines(table: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}={text}" for name, text in table.items())

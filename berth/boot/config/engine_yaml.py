"""The engines of a model in the YAML form of BERTH_MODELS: their order, command-line arguments and environment."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from berth.boot.config import model_rules as rules
from berth.boot.config import parsers
from berth.boot.config.model_rules import Problems, Rule
from berth.boot.config.model_shorthand import AUTO
from berth.boot.config.model_spec import EngineOptions, EngineSpec
from berth.boot.config.parsers import read_value
from berth.boot.config.yaml_text import Tree, items, mapping, masked_tree, scalar, scalars
from berth.plan import DialectName, EngineName

ATTACHED_FIELDS = ("url", "dialect", "api_key", "api_key_file", "model", "weights", "share", "batch", "continues")
STARTED_FIELDS = ("engine", "dialect", "args", "env", "share")
OPTION_FIELDS = ("args", "env")

ATTACHED_EXAMPLE = "engines: [{url: 'http://127.0.0.1:9100/v1', dialect: vllm}]"
STARTED_EXAMPLE = "engines: [{engine: vllm, args: [--enable-prefix-caching]}]"
OPTIONS_EXAMPLE = "vllm: {args: [--enable-prefix-caching], env: {VLLM_LOGGING_LEVEL: DEBUG}}"


ENGINE_ORDER = Rule(
    parse=rules.engine_entry,
    allowed="vllm, sglang, trtllm, sim, sim:DIALECT, a mapping with `url` or `engine`, or auto before all of them",
    example="engines: [vllm, sglang]",
)
ENGINE = Rule(parse=rules.engine_entry, allowed=rules.ENGINE.allowed, example="engines: [vllm, sglang]")
URL = Rule(parse=rules.URL.parse, allowed=rules.URL.allowed, example=ATTACHED_EXAMPLE)
ATTACHED_DIALECT = Rule(
    parse=lambda text: parsers.member(DialectName)(text) if text != AUTO else None,
    allowed=f"{AUTO}, {', '.join(DialectName)}",
    example=ATTACHED_EXAMPLE,
)
SIM_DIALECT = Rule(
    parse=lambda text: DialectName(parsers.choice(*rules.SIM_DIALECTS)(text)),
    allowed=", ".join(rules.SIM_DIALECTS),
    example="engines: [{engine: sim, dialect: sglang}]",
)
REMOTE_NAME = Rule(
    parse=rules.any_source,
    allowed="the model's name at the attached server",
    example="engines: [{url: 'http://127.0.0.1:9100/v1', model: served-name}]",
)
WEIGHTS = Rule(
    parse=rules.weights_label,
    allowed="the source of the model whose weights it serves, with its revision after a space, or any other text that "
    "the engines share",
    example="engines: [{url: 'http://127.0.0.1:9100/v1', weights: Qwen/Qwen3-8B}]",
)
SHARE = Rule(
    parse=rules.share,
    allowed="a number above 0 up to 1000; 2 gets twice the requests of 1",
    example="engines: [{engine: vllm, share: 2}, sglang]",
)
BATCH = Rule(
    parse=parsers.whole_number(1, 1_000_000),
    allowed="inputs per embeddings request; more are split into several",
    example="engines: [{url: 'http://127.0.0.1:9100/v1', batch: 32}]",
)
CONTINUES = Rule(
    parse=parsers.boolean,
    allowed="true or false: whether the server continues an answer that a request brings; without it, Berth tries",
    example="engines: [{url: 'http://127.0.0.1:9100/v1', weights: mine, continues: false}]",
)
API_KEY = Rule(
    parse=parsers.secret,
    allowed="printable ASCII without white space",
    example="engines: [{url: 'http://127.0.0.1:9100/v1', api_key_file: /run/secrets/key}]",
)
ATTACHED_SCALARS: dict[str, tuple[str, Rule[Any]]] = {  # optional; the field of EngineSpec and the rule
    "dialect": ("dialect", ATTACHED_DIALECT),
    "model": ("remote_name", REMOTE_NAME),
    "weights": ("weights", WEIGHTS),
    "batch": ("batch", BATCH),
    "continues": ("continues", CONTINUES),
}
API_KEY_FILE = Rule(parse=read_value, allowed="a readable file that holds the key", example=API_KEY.example)
ARGUMENT = Rule(
    parse=rules.argument,
    allowed=f"a list of command-line words without {', '.join(rules.OWN_FLAGS)}",
    example=OPTIONS_EXAMPLE,
)
ENVIRONMENT_NAME = Rule(
    parse=rules.environment_name, allowed="a mapping of variables, without BERTH_*", example=OPTIONS_EXAMPLE
)
ENVIRONMENT_VALUE = Rule(parse=str, allowed="one value per variable", example=OPTIONS_EXAMPLE)


def engine_list(problems: Problems, place: str, tree: Tree) -> tuple[EngineSpec, ...]:
    """The engine order; an invalid entry is a problem and left out."""
    if isinstance(tree, list) and not tree:
        problems.reject(place, "[]", "an empty list", ENGINE_ORDER)
    entries = items(problems, place, tree, ENGINE_ORDER)
    engines = [engine_entry(problems, f"{place}[{index}]", entry) for index, entry in enumerate(entries)]
    return tuple(engine for engine in engines if engine)


def engine_options(problems: Problems, place: str, tree: Tree) -> EngineOptions:
    fields = mapping(problems, place, tree, known=OPTION_FIELDS, example=OPTIONS_EXAMPLE)
    return _options(problems, place, fields)


def merged(engine: EngineSpec, options: Mapping[EngineName, EngineOptions]) -> EngineSpec:
    """The entry with the model's options for its engine in front: those of the entry come last and win."""
    common = options.get(engine.engine)
    if common is None:
        return engine
    return dataclasses.replace(engine, args=common.args + engine.args, env={**common.env, **engine.env})


def engine_entry(problems: Problems, place: str, tree: Tree) -> EngineSpec | None:
    """One entry of the engine order: a name, a URL, or a mapping with `engine` or `url`."""
    if isinstance(tree, str):
        if rules.is_url(tree):
            return _attached_engine(problems, place, {"url": tree})
        return problems.parse(place, tree, ENGINE_ORDER)
    if isinstance(tree, dict) and "url" in tree:
        return _attached_engine(problems, place, tree)
    if isinstance(tree, dict) and "engine" in tree:
        return _started_engine(problems, place, tree)
    example = f"{ATTACHED_EXAMPLE} or {STARTED_EXAMPLE}"
    problems.add(place, masked_tree(tree), "not an engine", allowed=ENGINE_ORDER.allowed, example=example)
    return None


def _attached_engine(problems: Problems, place: str, tree: Tree) -> EngineSpec | None:
    fields = mapping(problems, place, tree, known=ATTACHED_FIELDS, example=ATTACHED_EXAMPLE)
    url = scalar(problems, f"{place}.url", fields.get("url"), URL)
    given: dict[str, Any] = {
        attribute: scalar(problems, f"{place}.{field}", fields[field], rule)
        for field, (attribute, rule) in ATTACHED_SCALARS.items()
        if field in fields
    }
    api_key = _api_key(problems, place, fields)
    share = _share(problems, place, fields)
    return EngineSpec(engine=EngineName.REMOTE, url=url, api_key=api_key, share=share, **given) if url else None


def _started_engine(problems: Problems, place: str, tree: Tree) -> EngineSpec | None:
    fields = mapping(problems, place, tree, known=STARTED_FIELDS, example=STARTED_EXAMPLE)
    engine = scalar(problems, f"{place}.engine", fields.get("engine"), ENGINE)
    options = _options(problems, place, fields)
    share = _share(problems, place, fields)
    if engine is None:
        return None
    dialect = engine.dialect
    if "dialect" in fields and engine.engine is EngineName.SIM:
        dialect = scalar(problems, f"{place}.dialect", fields["dialect"], SIM_DIALECT)
    elif "dialect" in fields:
        problems.add(
            f"{place}.dialect",
            masked_tree(fields["dialect"]),
            f"{engine.engine} has only one dialect",
            allowed="a dialect for sim and for attached servers only",
            example=SIM_DIALECT.example,
        )
    return dataclasses.replace(engine, dialect=dialect, args=options.args, env=options.env, share=share)


def _share(problems: Problems, place: str, fields: dict[str, Tree]) -> float:
    share = scalar(problems, f"{place}.share", fields["share"], SHARE) if "share" in fields else None
    return share or 1.0


def _api_key(problems: Problems, place: str, fields: dict[str, Tree]) -> str | None:
    """The key as given or from its file. Its value is never part of a message."""
    if "api_key" in fields and "api_key_file" in fields:
        allowed = "one of api_key and api_key_file"
        problems.add(f"{place}.api_key_file", "", "api_key is set too", allowed=allowed, example=API_KEY.example)
        return None
    field = "api_key_file" if "api_key_file" in fields else "api_key"
    place, key = f"{place}.{field}", fields.get(field)
    if field == "api_key_file":
        key = scalar(problems, place, key, API_KEY_FILE)
    if key is None:
        return None
    try:
        return parsers.secret(key if isinstance(key, str) else "")
    except ValueError as exc:
        problems.reject(place, "***", str(exc), API_KEY)
        return None


def _options(problems: Problems, place: str, fields: dict[str, Tree]) -> EngineOptions:
    args, variables = fields.get("args", []), fields.get("env", {})
    if not isinstance(args, list):
        problems.reject(f"{place}.args", masked_tree(args), "expected a list", ARGUMENT)
        args = []
    if not isinstance(variables, dict):
        problems.reject(f"{place}.env", masked_tree(variables), "expected a mapping", ENVIRONMENT_NAME)
        variables = {}
    env = {}
    for name, tree in variables.items():
        value = scalar(problems, f"{place}.env.{name}", tree, ENVIRONMENT_VALUE)
        if problems.parse(f"{place}.env.{name}", name, ENVIRONMENT_NAME) is not None and value is not None:
            env[name] = value
    return EngineOptions(args=scalars(problems, f"{place}.args", args, ARGUMENT), env=env)

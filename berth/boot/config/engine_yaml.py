"""The engines of a model in the YAML form of BERTH_MODELS: their order, and what is added to their command lines."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from berth.boot.config import model_rules as rules
from berth.boot.config import parsers
from berth.boot.config.model_rules import Problems, Rule
from berth.boot.config.model_spec import EngineOptions, EngineSpec
from berth.boot.config.parsers import read_value
from berth.boot.config.yaml_text import Tree, items, mapping, scalar, scalars, shown
from berth.plan import DialectName, EngineName

ATTACHED_FIELDS = ("url", "dialect", "api_key", "api_key_file", "model", "weights", "share", "batch")
STARTED_FIELDS = ("engine", "dialect", "args", "env", "share")
OPTION_FIELDS = ("args", "env")
OWN_FLAGS = frozenset({"--host", "--port", "--served-model-name", "--uds"})
OWN_VARIABLES = frozenset({"VLLM_API_KEY", "SIM_API_KEY"})
LARGEST_SHARE = 1000
SECRET_FLAG = re.compile(r"--.*(api-key|access-key|hf-token|secret|password)\Z")

ATTACHED_EXAMPLE = "engines: [{url: 'http://127.0.0.1:9100/v1', dialect: vllm}]"
STARTED_EXAMPLE = "engines: [{engine: vllm, args: [--enable-prefix-caching]}]"
OPTIONS_EXAMPLE = "vllm: {args: [--enable-prefix-caching], env: {VLLM_LOGGING_LEVEL: DEBUG}}"


def _argument(text: str) -> str:
    flag = text.partition("=")[0].replace("_", "-")
    if flag in OWN_FLAGS:
        raise ValueError("Berth sets this itself")
    if SECRET_FLAG.fullmatch(flag):
        raise ValueError("a secret that `ps` would show: put it into `env`, or into a file that the engine reads")
    return text


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        raise ValueError("not a number") from None
    if not 0 < share <= LARGEST_SHARE:
        raise ValueError("out of range")
    return share


def _environment_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError("not a name of an environment variable")
    if text.startswith("BERTH_"):
        raise ValueError("engines see no BERTH_* variable")
    if text in OWN_VARIABLES:
        raise ValueError("Berth sets this itself")
    return text


ENGINE_ORDER = Rule(
    parse=rules.engine_entry,
    allowed="vllm, sglang, trtllm, sim, sim:DIALECT, or a mapping with `url` or `engine`",
    example="engines: [vllm, sglang]",
)
ENGINE = Rule(parse=rules.engine_entry, allowed=rules.ENGINE.allowed, example="engines: [vllm, sglang]")
URL = Rule(parse=rules.URL.parse, allowed=rules.URL.allowed, example=ATTACHED_EXAMPLE)
ATTACHED_DIALECT = Rule(
    parse=lambda text: DialectName(parsers.choice(*DialectName)(text)),
    allowed=", ".join(DialectName),
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
    parse=rules.any_source,
    allowed="the source of the model whose weights it has, or any other word that says they are the same",
    example="engines: [{url: 'http://127.0.0.1:9100/v1', weights: Qwen/Qwen3-8B}]",
)
SHARE = Rule(
    parse=_share,
    allowed="a number above 0 up to 1000; 2 gets twice the requests of 1",
    example="engines: [{engine: vllm, share: 2}, sglang]",
)
BATCH = Rule(
    parse=parsers.whole_number(1, 1_000_000),
    allowed="inputs that the server takes in one embeddings request; more are sent in several",
    example="engines: [{url: 'http://127.0.0.1:9100/v1', batch: 32}]",
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
}
API_KEY_FILE = Rule(parse=read_value, allowed="a readable file that holds the key", example=API_KEY.example)
ARGUMENT = Rule(
    parse=_argument,
    allowed=f"a list of command line words without {', '.join(sorted(OWN_FLAGS))}",
    example=OPTIONS_EXAMPLE,
)
ENVIRONMENT_NAME = Rule(
    parse=_environment_name, allowed="a mapping of variables, none of them BERTH_*", example=OPTIONS_EXAMPLE
)
ENVIRONMENT_VALUE = Rule(parse=str, allowed="one text per variable", example=OPTIONS_EXAMPLE)


def engine_list(problems: Problems, place: str, tree: Tree) -> tuple[EngineSpec, ...]:
    """The engine order; an entry that is not right is a problem and left out."""
    entries = items(problems, place, tree, ENGINE_ORDER)
    if isinstance(tree, list) and not tree:
        problems.add(place, "[]", "an empty list", allowed=ENGINE_ORDER.allowed, example=ENGINE_ORDER.example)
    engines = [_entry(problems, f"{place}[{index}]", entry) for index, entry in enumerate(entries)]
    return tuple(engine for engine in engines if engine)


def engine_options(problems: Problems, place: str, tree: Tree) -> EngineOptions:
    fields = mapping(problems, place, tree, known=OPTION_FIELDS, example=OPTIONS_EXAMPLE)
    return _options(problems, place, fields)


def merged(engine: EngineSpec, options: Mapping[EngineName, EngineOptions]) -> EngineSpec:
    """The entry with the model's options for its engine in front: what the entry itself says comes last and wins."""
    common = options.get(engine.engine)
    if common is None:
        return engine
    return dataclasses.replace(engine, args=common.args + engine.args, env={**common.env, **engine.env})


def _entry(problems: Problems, place: str, tree: Tree) -> EngineSpec | None:
    if isinstance(tree, str) and not rules.is_url(tree):
        return problems.parse(place, tree, ENGINE_ORDER)
    if isinstance(tree, str):
        return _attached(problems, place, {"url": tree})
    if isinstance(tree, dict) and "url" in tree:
        return _attached(problems, place, tree)
    if isinstance(tree, dict) and "engine" in tree:
        return _started(problems, place, tree)
    problems.add(
        place,
        shown(tree),
        "no engine",
        allowed=ENGINE_ORDER.allowed,
        example=f"{ATTACHED_EXAMPLE} or {STARTED_EXAMPLE}",
    )
    return None


def _attached(problems: Problems, place: str, tree: Tree) -> EngineSpec | None:
    fields = mapping(problems, place, tree, known=ATTACHED_FIELDS, example=ATTACHED_EXAMPLE)
    url = scalar(problems, f"{place}.url", fields.get("url"), URL)
    given: dict[str, Any] = {
        attribute: scalar(problems, f"{place}.{field}", fields[field], rule)
        for field, (attribute, rule) in ATTACHED_SCALARS.items()
        if field in fields
    }
    api_key = _api_key(problems, place, fields)
    share = _share_of(problems, place, fields)
    if url is None:
        return None
    return EngineSpec(
        engine=EngineName.REMOTE,
        url=url,
        api_key=api_key,
        share=share,
        **given,
    )


def _share_of(problems: Problems, place: str, fields: dict[str, Tree]) -> float:
    share = scalar(problems, f"{place}.share", fields["share"], SHARE) if "share" in fields else None
    return share or 1.0


def _api_key(problems: Problems, place: str, fields: dict[str, Tree]) -> str | None:
    """The key as given or from its file. Its value is never part of a message."""
    if "api_key" in fields and "api_key_file" in fields:
        problems.add(
            f"{place}.api_key_file",
            "",
            "api_key is given too",
            allowed="one of api_key and api_key_file",
            example=API_KEY.example,
        )
        return None
    key = fields.get("api_key")
    name = "api_key"
    if "api_key_file" in fields:
        name = "api_key_file"
        key = scalar(problems, f"{place}.{name}", fields[name], API_KEY_FILE)
    if key is None:
        return None
    try:
        return parsers.secret(key if isinstance(key, str) else "")
    except ValueError as exc:
        problems.add(f"{place}.{name}", "***", str(exc), allowed=API_KEY.allowed, example=API_KEY.example)
        return None


def _started(problems: Problems, place: str, tree: Tree) -> EngineSpec | None:
    fields = mapping(problems, place, tree, known=STARTED_FIELDS, example=STARTED_EXAMPLE)
    engine = scalar(problems, f"{place}.engine", fields.get("engine"), ENGINE)
    options = _options(problems, place, fields)
    share = _share_of(problems, place, fields)
    if engine is None:
        return None
    dialect = engine.dialect
    if "dialect" in fields and engine.engine is EngineName.SIM:
        dialect = scalar(problems, f"{place}.dialect", fields["dialect"], SIM_DIALECT)
    elif "dialect" in fields:
        problems.add(
            f"{place}.dialect",
            shown(fields["dialect"]),
            f"{engine.engine} speaks its own dialect",
            allowed="a dialect for sim and for attached servers only",
            example=SIM_DIALECT.example,
        )
    return dataclasses.replace(engine, dialect=dialect, args=options.args, env=options.env, share=share)


def _options(problems: Problems, place: str, fields: dict[str, Tree]) -> EngineOptions:
    args = fields.get("args", [])
    if not isinstance(args, list):
        problems.add(
            f"{place}.args", shown(args), "a list belongs here", allowed=ARGUMENT.allowed, example=ARGUMENT.example
        )
        args = []
    return EngineOptions(
        args=scalars(problems, f"{place}.args", args, ARGUMENT),
        env=_environment(problems, place, fields.get("env", {})),
    )


def _environment(problems: Problems, place: str, tree: Tree) -> dict[str, str]:
    if not isinstance(tree, dict):
        problems.add(
            f"{place}.env",
            shown(tree),
            "not a mapping",
            allowed=ENVIRONMENT_NAME.allowed,
            example=ENVIRONMENT_NAME.example,
        )
        return {}
    environment = {}
    for name, value_tree in tree.items():
        where = f"{place}.env.{name}"
        value = scalar(problems, where, value_tree, ENVIRONMENT_VALUE)
        if problems.parse(where, name, ENVIRONMENT_NAME) is not None and value is not None:
            environment[name] = value
    return environment

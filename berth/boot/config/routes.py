"""BERTH_ROUTES: a list of rules in YAML or JSON. Here each rule is read by itself; `route_checks` compares them with
models, keys and each other.
"""

import re
from typing import Any, Final

from berth.boot.config import parsers
from berth.boot.config.model_rules import Problems, Rule, public_name
from berth.boot.config.yaml_text import Tree, YamlError, items, mapping, masked_tree, read, scalar, scalars
from berth.errors import ConfigError
from berth.plan import RoutingRule
from berth.plan.routing import PARAMETERS

VARIABLE: Final = "BERTH_ROUTES"
EXAMPLE: Final = "- {path: /batch, engine: vllm, priority: low}"
MOST_RULES: Final = 100
# The first words of the paths that Berth has itself.
OWN_PATHS: Final = frozenset(
    {
        *("admin", "api", "classify", "detokenize", "docs", "events", "generate", "generate_stream", "health"),
        *("info", "metrics", "models", "openapi.json", "plan", "ready", "rerank", "score", "status", "tokenize"),
        *("ui", "usage", "v1", "v2"),
    }
)
# Headers whose values are secret: rules are shown in /status.
SECRET_HEADERS: Final = frozenset({"authorization", "x-api-key", "cookie", "proxy-authorization"})

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_PATH: Final = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._-]{0,63}){1,4}")
_HEADER: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")
_BOUND: Final = re.compile(r"(>=|<=|>|<)\s*([0-9.]+[kKmM]?)")


def rule_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("not a name of lower-case letters, digits and hyphens")
    return text


def path_prefix(text: str) -> str:
    if not _PATH.fullmatch(text):
        raise ValueError("not a path such as /batch, without a slash at its end")
    if (first := text.split("/")[1]) in OWN_PATHS:
        raise ValueError(f"Berth has paths of its own below /{first}")
    return text


def header_name(text: str) -> str:
    name = text.lower()
    if name in SECRET_HEADERS:
        raise ValueError("it holds a secret, and rules are shown in /status; `key` takes the name of a key")
    if not _HEADER.fullmatch(name):
        raise ValueError("not the name of a header")
    return name


def token_range(text: str) -> tuple[int, int | None]:
    """The least and the most tokens of ">=16000", "<4k" or ">=4k <16k"."""
    least, most = 0, None
    if not _BOUND.search(text) or _BOUND.sub("", text).strip():
        raise ValueError("not a comparison")
    for sign, number in _BOUND.findall(text):
        tokens = parsers.tokens(number)
        if sign.startswith(">"):
            least = max(least, tokens + (sign == ">"))
        else:
            bound = tokens - (sign == "<")
            most = bound if most is None else min(most, bound)
    if most is not None and most < least:
        raise ValueError("no number of tokens is in this range, so the rule can never match")
    return least, most


NAME: Final = Rule(
    parse=rule_name, allowed="a-z, 0-9 and '-', at most 32 characters, each name once", example="name: batch"
)
PARAMETER: Final = Rule(parse=parsers.choice(*PARAMETERS), allowed=", ".join(PARAMETERS), example="has: tools")
KEY: Final = Rule(parse=rule_name, allowed="names of BERTH_API_KEYS", example="key: nightly")
MODEL: Final = Rule(parse=public_name, allowed="names and aliases of BERTH_MODELS", example="model: chat")
ALIAS: Final = Rule(
    parse=public_name,
    allowed="what clients write as the model: a name or alias of BERTH_MODELS, or with `model` a new one",
    example="alias: fast",
)
HEADER: Final = Rule(
    parse=header_name, allowed="a mapping from names of headers to values", example='header: {user-agent: "curl/*"}'
)
PATTERN: Final = Rule(
    parse=str, allowed="a text, in which * stands for any characters and ? for one", example=HEADER.example
)
TOKENS: Final = Rule(
    parse=token_range, allowed="a comparison: >=16000, >16k, <4k, or two of them", example='prompt_tokens: ">=16k"'
)
SINGLE: Final[dict[str, Rule[Any]]] = {  # the rules of the fields with one value
    "path": Rule(parse=path_prefix, allowed="a path that is none of Berth's own", example="path: /batch"),
    "prompt_tokens": TOKENS,
    "engine": Rule(
        parse=public_name,
        allowed="an engine that serves the model, or the name of a replica, as in `berth plan`",
        example="engine: sglang",
    ),
    "only": Rule(parse=parsers.boolean, allowed="true, false", example="only: true"),
    "model": MODEL,
    "priority": Rule(
        parse=parsers.choice("high", "normal", "low"), allowed="high, normal, low", example="priority: low"
    ),
}
LISTS: Final[dict[str, tuple[str, Rule[Any]]]] = {  # the field of RoutingRule, and the rule of each item
    "has": ("has", PARAMETER),
    "not": ("lacks", PARAMETER),
    "key": ("keys", KEY),
    "alias": ("aliases", ALIAS),
}
FIELDS: Final = ("name", *LISTS, "header", *SINGLE)


def parse_routes(text: str) -> tuple[RoutingRule, ...]:
    """The rules in their order. ConfigError with every problem."""
    problems = Problems(VARIABLE)
    try:
        tree = read(text)
    except YamlError as exc:
        tree = []
        problems.add("", "", str(exc), allowed="YAML or JSON, a list of rules", example=EXAMPLE)
    if not isinstance(tree, list):
        shown = masked_tree(tree)
        problems.add("", shown, "expected a list of rules", allowed="YAML or JSON, a list of rules", example=EXAMPLE)
        tree = []
    if len(tree) > MOST_RULES:
        problems.add("", f"{len(tree)} rules", "too many", allowed=f"at most {MOST_RULES} rules", example=EXAMPLE)
    rules = [_rule(problems, number, one) for number, one in enumerate(tree, 1)]
    names = [rule.name for rule in rules]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.reject(f"{name}.name", name, "another rule has this name", NAME)
    if problems.found:
        raise ConfigError(problems.found)
    return tuple(rules)


def _rule(problems: Problems, number: int, tree: Tree) -> RoutingRule:
    """Its valid fields."""
    name = str(number)
    if isinstance(tree, dict) and "name" in tree:
        name = scalar(problems, f"{name}.name", tree["name"], NAME) or name
    given = mapping(problems, name, tree, known=FIELDS, example=EXAMPLE)
    values: dict[str, Any] = {}
    for field, rule in SINGLE.items():
        if field in given and (value := scalar(problems, f"{name}.{field}", given[field], rule)) is not None:
            values[field] = value
    for field, (own, rule) in LISTS.items():
        if field in given:
            place = f"{name}.{field}"
            values[own] = tuple(
                dict.fromkeys(scalars(problems, place, items(problems, place, given[field], rule), rule))
            )
            if not values[own]:
                problems.reject(place, masked_tree(given[field]), "nothing given", rule)
    if "header" in given:
        values["headers"] = _headers(problems, f"{name}.header", given["header"])
    values["least_tokens"], values["most_tokens"] = values.pop("prompt_tokens", (0, None))
    made = RoutingRule(name=name, **values)
    _check(problems, made, given)
    return made


def _headers(problems: Problems, place: str, tree: Tree) -> dict[str, str]:
    if not isinstance(tree, dict) or not tree:
        problems.reject(place, masked_tree(tree), "expected headers and their values", HEADER)
        return {}
    found = {}
    for name, pattern in tree.items():
        header = problems.parse(f"{place}.{name}", name, HEADER)
        text = scalar(problems, f"{place}.{name}", pattern, PATTERN)
        if header is not None and text is not None:
            found[header] = text
    return found


def _check(problems: Problems, rule: RoutingRule, given: dict[str, Tree]) -> None:
    """What the fields of one rule say together."""
    if not {"engine", "model", "priority"} & given.keys():
        reason, allowed = "it decides nothing", "engine, model or priority, at least one of them"
        problems.add(rule.name, "", reason, allowed=allowed, example=EXAMPLE)
    if rule.only and "engine" not in given:
        allowed = "with `engine`: no other engine serves the request then"
        problems.add(f"{rule.name}.only", "true", "no engine is given", allowed=allowed, example="engine: sglang")
    for word in (one for one in rule.has if one in rule.lacks):
        reason = "also in `has`, so the rule can never match"
        problems.add(f"{rule.name}.not", word, reason, allowed="has or not, one of them", example=PARAMETER.example)

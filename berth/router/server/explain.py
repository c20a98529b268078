"""Which rule of BERTH_ROUTES decides about a request, and why not the others: for `berth route --explain` and POST of
/admin/routes/explain. It asks the same code as a request does; nothing is sent to an engine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from berth.apis.base import ApiFormat, Headers
from berth.canonical import Operation
from berth.errors import ApiError, InvalidRequestError
from berth.plan import ApiKey, Plan, RoutingRule
from berth.plan.keys import OPEN
from berth.plan.routing import models_on
from berth.router.balancing.model_catalog import ModelCatalog
from berth.router.balancing.rules import Rule, Rules
from berth.router.response_store import ResponseFiles
from berth.router.server.api_routes import formats

DEFAULT_PATH: Final = "/v1/chat/completions"
_SAMPLES: Final[dict[Operation, dict[str, Any]]] = {  # a request where none is given
    Operation.CHAT: {"messages": [{"role": "user", "content": "Hello"}], "input": "Hello", "max_tokens": 16},
    Operation.COMPLETION: {"prompt": "Hello", "inputs": "Hello"},
    Operation.EMBEDDING: {"input": "Hello", "prompt": "Hello"},
    Operation.TOKENIZE: {"prompt": "Hello"},
    Operation.DETOKENIZE: {"tokens": [1]},
    Operation.RERANK: {"query": "Hello", "documents": ["Hello"]},
    Operation.SCORE: {"text_1": "Hello", "text_2": "Hello"},
    Operation.CLASSIFY: {"input": "Hello"},
    Operation.MEDIA: {"input": "Hello", "prompt": "Hello"},
}
_FIELDS: Final = {  # the fields of RoutingRule that are one condition in BERTH_ROUTES
    "path": ("path",),
    "has": ("has",),
    "not": ("lacks",),
    "key": ("keys",),
    "header": ("headers",),
    "prompt_tokens": ("least_tokens", "most_tokens"),
    "alias": ("aliases",),
}


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request that is described rather than sent."""

    path: str = DEFAULT_PATH
    model: str | None = None  # None: as the body says
    key: str = ""  # the name of an API key
    headers: dict[str, str] = {}
    body: dict[str, Any] | None = None  # None: a short one


class Described:
    """What rules see of it."""

    def __init__(self, asked: Asked, prefix: str, api: ApiFormat) -> None:
        self.api = api
        self.prefix = prefix
        self.headers: Headers = {
            name.lower().encode("latin-1", "replace"): value.encode("latin-1", "replace")
            for name, value in asked.headers.items()
        }
        self.rule: RoutingRule | None = None


def described(path: str, model: str | None, key: str, headers: Sequence[str], data: str) -> Asked:
    """From the options of a command line. InvalidRequestError for what is not a request."""
    body: Any = None
    if data:
        try:
            text = Path(data[1:]).read_bytes() if data.startswith("@") else data.encode()
            body = msgspec.json.decode(text, type=dict[str, Any])
        except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise InvalidRequestError(
                f"{data[:100]!r} is not a body: {error}. Give a JSON object, or @FILE."
            ) from error
    pairs = [header.partition(":") for header in headers]
    if wrong := [name for name, colon, _ in pairs if not colon]:
        raise InvalidRequestError(f"{wrong[0]!r} is not a header. Write it as 'NAME: VALUE'.")
    return Asked(path=path, model=model, key=key, headers={n.strip(): v.strip() for n, _, v in pairs}, body=body)


def explained(plan: Plan, keys: Sequence[ApiKey], asked: Asked) -> dict[str, Any]:
    """As JSON. InvalidRequestError for a request that is none."""
    catalog = ModelCatalog(plan)
    rules = Rules(plan, catalog)
    prefix, path = rules.split(asked.path)
    known = formats(ResponseFiles.of(plan))
    if path not in known:
        raise InvalidRequestError(f"{asked.path!r} is no path of an API. Allowed: {', '.join(known)}.", param="path")
    key = OPEN if not asked.key else next((one for one in keys if one.name == asked.key), None)
    if key is None:
        names = ", ".join(one.name for one in keys) or "none, BERTH_API_KEYS is not set"
        raise InvalidRequestError(f"{asked.key!r} is no key. Allowed: {names}.", param="key")
    ctx = Described(asked, prefix, known[path])
    body = {"model": plan.models[0].name, **_SAMPLES[ctx.api.operation]} if asked.body is None else asked.body
    body = body if asked.model is None else {**body, "model": asked.model}
    request = ctx.api.parse(msgspec.json.encode(body), ctx.headers)
    rows = [
        {"name": rule.rule.name, "text": str(rule.rule)}
        | _answer(rule, plan, lambda one: rules.match((one,), ctx, request, key) is not None)
        for rule in rules.all
    ]
    try:
        route, error = rules.decide(ctx, request, key), ""
    except ApiError as denied:
        route, error = None, denied.message
    decides = ctx.rule
    return {
        "rule": None if decides is None else decides.name,
        "model": None if route is None else route.name,
        "replicas": [] if route is None else list(route.replicas),
        "only": route is not None and route.only,
        "priority": (decides.priority if decides is not None else "") or None,
        "error": error,
        "rules": rows,
    }


def _answer(rule: Rule, plan: Plan, holds: Callable[[Rule], bool]) -> dict[str, Any]:
    """Whether it matches by itself, and which of its conditions do not hold."""
    single = RoutingRule(name=rule.rule.name, priority="low")
    failing = []
    for name, text in rule.rule.conditions.items():
        fields = {field: getattr(rule.rule, field) for field in _FIELDS[name]}
        if not holds(Rule(replace(single, **fields), plan)):
            failing.append(f"not {name}: {text}")
    if rule.models is not None and not holds(Rule(replace(single, engine=rule.rule.engine), plan)):
        names = ", ".join(sorted(models_on(plan, rule.rule.engine)))
        failing.append(f"{rule.rule.engine} does not serve the model, but {names}")
    return {"matches": not failing, "because": failing}


def as_text(found: Mapping[str, Any]) -> str:
    """For people."""
    lines = []
    for row in found["rules"]:
        mark = "*" if row["name"] == found["rule"] else " "
        shown = f"{mark} {row['name']:<12}  {row['text']}"
        reason = "; ".join(row["because"])
        if row["matches"] and mark != "*":
            reason = f"it matches, but {found['rule']} comes first"
        lines += [shown, *([f"{'':14}  {reason}"] if reason else [])]
    head = f"The rule {found['rule']} decides" if found["rule"] else "No rule matches"
    if found["error"]:
        return "\n".join([*lines, "", f"{head}. The request is denied: {found['error']}"])
    order = f"{'only ' * found['only']}{', '.join(found['replicas'])}"
    priority = f", priority {found['priority']}" if found["priority"] else ""
    return "\n".join([*lines, "", f"{head}: model {found['model']}, on {order}{priority}"])


def as_json(found: Mapping[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()


def listing(plan: Plan) -> str:
    """The rules of a plan."""
    return "\n".join(f"{one.name:<12}  {one}" for one in plan.rules) or "BERTH_ROUTES has no rules."

"""The rules of BERTH_ROUTES at work: the first whose conditions all hold decides about a request; pure.

They are compiled when the worker starts. A request costs two calls for any number of rules, one more for each rule with
headers, and two each where rules ask for its parameters, the length of its prompt or the engines of its model: that is
found out once, when the first rule needs it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from berth.apis.base import ApiFormat, Headers, Immediate
from berth.canonical import InferenceRequest, Json
from berth.dialects.requests.structured_output import CONSTRAINING
from berth.plan import ApiKey, ModelRoute, Plan, RoutingRule
from berth.plan.routing import directed, models_on, pattern
from berth.router.balancing.model_catalog import LATEST, ModelCatalog

_BYTES_PER_TOKEN: Final = 4  # of a prompt, on average
_PROMPTS: Final = ("prompt", "input", "query", "documents", "text_1", "text_2", "tokens")  # of the canonical bodies
_NOTHING: Final = frozenset[str]()


class Asking(Protocol):
    """What conditions compare, besides the request itself."""

    api: ApiFormat
    headers: Headers
    prefix: str  # of a rule, in the path; "": none


class Deciding(Asking, Protocol):
    rule: RoutingRule | None  # that decides


class Rule:
    """One rule, as it is compared with requests."""

    __slots__ = ("counts", "has", "headers", "keys", "lacks", "least", "models", "most", "names", "routes", "rule")

    def __init__(self, rule: RoutingRule, plan: Plan) -> None:
        self.rule = rule
        self.has, self.lacks, self.keys = frozenset(rule.has), frozenset(rule.lacks), frozenset(rule.keys)
        self.headers = [(name.encode(), pattern(text)) for name, text in rule.headers.items()]
        self.least, self.most = rule.least_tokens, math.inf if rule.most_tokens is None else rule.most_tokens
        self.counts = self.least > 0 or self.most < math.inf  # tokens of the prompt
        plain = [alias.removesuffix(LATEST) for alias in rule.aliases]
        self.names = frozenset((*rule.aliases, *plain, *(alias + LATEST for alias in plain)))
        # without a model or alias, a rule with an engine holds for the models that the engine serves
        unnamed = rule.engine and not (rule.model or rule.aliases)
        self.models = models_on(plan, rule.engine) if unnamed else None
        self.routes: dict[str, tuple[ModelRoute, ModelRoute]] = {}  # model -> its route, and that of this rule


class Rules:
    """Those of a plan that has some."""

    def __init__(self, plan: Plan, catalog: ModelCatalog) -> None:
        self._plan = plan
        self._catalog = catalog
        self.all = tuple(Rule(one, plan) for one in plan.rules)
        self.prefixes = sorted({one.path for one in plan.rules if one.path}, key=len, reverse=True)
        self._prefix = re.compile(f"({'|'.join(map(re.escape, self.prefixes))})(?=/|$)")

    def split(self, path: str) -> tuple[str, str]:
        """The prefix of a rule, which may be "", and the path behind it."""
        found = self._prefix.match(path) if self.prefixes else None
        return (found[0], path[found.end() :] or "/") if found else ("", path)

    def decide(self, ctx: Deciding, request: InferenceRequest | Immediate, key: ApiKey) -> ModelRoute:
        """The route of a request, with the rule that decides about it. Errors as of ModelCatalog.resolve."""
        found, operation = self.match(self.all, ctx, request, key), ctx.api.operation
        if found is None:
            return self._catalog.resolve(request.model, operation, key)
        ctx.rule = rule = found.rule
        route = self._catalog.resolve(rule.model or request.model, operation, key)
        if not rule.engine:
            return route
        name = route.added or route.name
        known = found.routes.get(name)
        if known is None or known[0] is not route:  # a route changes when a server has been identified
            first = [one.name for one in directed(self._plan, route, rule.engine)]
            rest = [] if rule.only else [name for name in route.replicas if name not in first]
            names = (*first, *rest)
            known = route, replace(route, replicas=names, engine=rule.engine, only=rule.only)
            found.routes[name] = known
        return known[1]

    def match(
        self, rules: Sequence[Rule], ctx: Asking, request: InferenceRequest | Immediate, key: ApiKey
    ) -> Rule | None:
        """The first that matches."""
        found, tokens, model = None, -1, None
        for rule in rules:
            if (
                rule.rule.path not in ("", ctx.prefix)
                or (rule.keys and key.name not in rule.keys)
                or (rule.names and request.model not in rule.names)
                or (rule.headers and not matches(rule.headers, ctx.headers))
            ):
                continue
            if rule.has or rule.lacks:
                found = parameters(request) if found is None else found
                if not (rule.has <= found and rule.lacks.isdisjoint(found)):
                    continue
            if rule.counts:
                tokens = prompt_tokens(request) if tokens < 0 else tokens
                if not rule.least <= tokens <= rule.most:
                    continue
            if rule.models is not None:
                model = self._catalog.model_of(request.model, ctx.api.operation, key) if model is None else model
                if model not in rule.models:
                    continue
            return rule
        return None


def matches(patterns: list[tuple[bytes, re.Pattern[str]]], headers: Mapping[bytes, bytes]) -> bool:
    for name, expected in patterns:
        given = headers.get(name)
        if given is None or expected.fullmatch(given.decode("latin-1")) is None:
            return False
    return True


def parameters(request: InferenceRequest | Immediate) -> frozenset[str]:
    """Those of berth.plan.routing.PARAMETERS that the request has."""
    if isinstance(request, Immediate):
        return _NOTHING
    body, found = request.body, set()
    if request.stream:
        found.add("stream")
    if body.get("tools") or body.get("functions"):
        found.add("tools")
    form = body.get("response_format")
    plain = not isinstance(form, dict) or form.get("type", "text") == "text"
    if not (plain and CONSTRAINING.isdisjoint(body.keys() - {"response_format"})):
        found.add("response_format")
    logprobs = body.get("logprobs")  # 0 asks for those of the tokens alone
    if (logprobs is not None and logprobs is not False) or body.get("prompt_logprobs") is not None:
        found.add("logprobs")
    for part in parts_of(body):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str):
            found |= {name for name in ("image", "audio") if name in kind}
    return frozenset(found)


def parts_of(body: Json) -> list[Any]:
    """Of the contents of all messages. An API checks its own fields, and lets others pass: they may be anything."""
    parts: list[Any] = []
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        parts += content if isinstance(content, list) else (content,)
    return parts


def prompt_tokens(request: InferenceRequest | Immediate) -> int:
    """An estimate: a token for each four bytes of text, without images and audio; exact where a prompt consists of
    tokens. Of several prompts or inputs the sum.
    """
    if isinstance(request, Immediate):
        return 0
    body, size = request.body, 0
    texts: list[Any] = []
    for name in _PROMPTS:
        value = body.get(name)
        texts += value if isinstance(value, list) else (value,)
    texts += parts_of(body)
    for given in texts:
        text = given.get("text") if isinstance(given, dict) else given
        if isinstance(text, str):
            size += len(text.encode("utf-8", "surrogatepass"))
        elif isinstance(text, int):
            size += _BYTES_PER_TOKEN
        elif isinstance(text, list):
            size += _BYTES_PER_TOKEN * len(text)
    return size // _BYTES_PER_TOKEN

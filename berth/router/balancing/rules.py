"""The rules of BERTH_ROUTES at work: the first whose conditions all hold decides about a request; pure.

They are compiled when the worker starts. Which of them are possible for a prefix, a key, a model and the parameters of
a request is found out once, and then known: only their headers, the length of the prompt and the engines of its model
are compared with each request, and of those only what a rule that is possible asks for.
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
from berth.plan.routing import PARAMETERS, directed, models_on, pattern
from berth.router.balancing.model_catalog import LATEST, ModelCatalog

_BYTES_PER_TOKEN: Final = 4  # of a prompt, on average
# of the canonical bodies
_PROMPTS: Final = frozenset({"prompt", "input", "query", "documents", "text_1", "text_2", "tokens"})
_NOTHING: Final = frozenset[str]()
_ALL: Final = frozenset(PARAMETERS)
_MARKS: Final = frozenset({"tools", "functions", "response_format", "logprobs", "prompt_logprobs"}) | CONSTRAINING
_IN_PARTS: Final = frozenset({"image", "audio"})  # of a message's content


class Asking(Protocol):
    """What conditions compare, besides the request itself."""

    api: ApiFormat
    headers: Headers
    prefix: str  # of a rule, in the path; "": none


class Deciding(Asking, Protocol):
    rule: RoutingRule | None  # that decides


class Rule:
    """One rule, as it is compared with requests."""

    __slots__ = (
        "counts", "has", "header", "headers", "keys", "lacks", "least", "models", "most", "names", "routes", "rule"
    )  # fmt: skip

    def __init__(self, rule: RoutingRule, plan: Plan) -> None:
        self.rule = rule
        self.has, self.lacks, self.keys = frozenset(rule.has), frozenset(rule.lacks), frozenset(rule.keys)
        self.headers = [(name.encode(), pattern(text)) for name, text in rule.headers.items()]
        self.header = self.headers[0][0] if self.headers else b""  # its first one
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
        self._names = _NOTHING.union(*(one.names for one in self.all))
        self._keys = _NOTHING.union(*(one.keys for one in self.all))
        self._asked = _NOTHING.union(*(one.has | one.lacks for one in self.all))
        self._possible: dict[tuple[str, str, str, frozenset[str]], tuple[Rule, ...]] = {}
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

    def possible(
        self, rules: Sequence[Rule], ctx: Asking, request: InferenceRequest | Immediate, key: ApiKey
    ) -> Sequence[Rule]:
        """Those of which nothing but the headers, the length of the prompt and the engines can still differ. Of all
        rules there are as many answers as they have paths, keys, aliases and parameters, and each is found out once.
        """
        given = parameters(request, self._asked) if self._asked else _NOTHING
        model, name = request.model or "", key.name
        kind = (ctx.prefix, name if name in self._keys else "", model if model in self._names else "", given)
        found = self._possible.get(kind) if rules is self.all else None
        if found is None:
            found = tuple(
                one
                for one in rules
                if one.rule.path in ("", ctx.prefix)
                and (not one.keys or name in one.keys)
                and (not one.names or model in one.names)
                and one.has <= given
                and one.lacks.isdisjoint(given)
            )
            if rules is self.all:
                self._possible[kind] = found
        return found

    def match(
        self, rules: Sequence[Rule], ctx: Asking, request: InferenceRequest | Immediate, key: ApiKey
    ) -> Rule | None:
        """The first that matches."""
        tokens, model, headers = -1, None, ctx.headers
        for rule in self.possible(rules, ctx, request, key):
            if rule.header and (rule.header not in headers or not matches(rule.headers, headers)):
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


def parameters(request: InferenceRequest | Immediate, asked: frozenset[str] = _ALL) -> frozenset[str]:
    """Those of berth.plan.routing.PARAMETERS that the request has; only those that are `asked` for."""
    if isinstance(request, Immediate):
        return _NOTHING
    body, found = request.body, set()
    if not request.stream and _MARKS.isdisjoint(body) and _IN_PARTS.isdisjoint(asked):
        return _NOTHING
    if request.stream:
        found.add("stream")
    if body.get("tools") or body.get("functions"):
        found.add("tools")
    if "response_format" in asked:
        form = body.get("response_format")
        plain = not isinstance(form, dict) or form.get("type", "text") == "text"
        if not (plain and CONSTRAINING.isdisjoint(body.keys() - {"response_format"})):
            found.add("response_format")
    logprobs = body.get("logprobs")  # 0 asks for those of the tokens alone
    if (logprobs is not None and logprobs is not False) or body.get("prompt_logprobs") is not None:
        found.add("logprobs")
    if not _IN_PARTS.isdisjoint(asked):
        kinds = [part.get("type") for part in parts_of(body) if isinstance(part, dict)]
        found |= {name for name in _IN_PARTS for kind in kinds if isinstance(kind, str) and name in kind}
    return asked.intersection(found)


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
    texts: list[Any] = parts_of(body)
    if not _PROMPTS.isdisjoint(body):
        for name in _PROMPTS & body.keys():
            value = body[name]
            texts += value if isinstance(value, list) else (value,)
    for given in texts:
        text = given.get("text") if isinstance(given, dict) else given
        if isinstance(text, str):
            size += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        elif isinstance(text, int):
            size += _BYTES_PER_TOKEN
        elif isinstance(text, list):
            size += _BYTES_PER_TOKEN * len(text)
    return size // _BYTES_PER_TOKEN

"""The rules of BERTH_ROUTES, compared with models, keys and each other. A rule that can never match is an error."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from berth.boot.config.model_rules import Problems
from berth.boot.config.model_spec import ModelSpec
from berth.boot.config.parsers import did_you_mean
from berth.boot.config.routes import EXAMPLE, KEY, MODEL, SINGLE, VARIABLE
from berth.errors import Problem
from berth.plan import ApiKey, ModelRoute, Plan, RoutingRule
from berth.plan.routing import directed, models_on, pattern, serving

_PRIORITIES: Final = ("high", "normal", "low")


def new_aliases(rules: Iterable[RoutingRule], models: Sequence[ModelSpec]) -> dict[str, str]:
    """The names that only a rule gives, each with its model; of several rules the first one counts. A name that stands
    for an adapter is not among them: clients find it in no list.
    """
    taken, own = (
        {name for one in models for name in _names(one)},
        {n for one in models for n in (one.name, *one.aliases)},
    )
    found: dict[str, str] = {}
    for rule in rules:
        if rule.model in own:
            found = {**{alias: rule.model for alias in rule.aliases if alias not in taken}, **found}
    return found


def unknown_names(rules: Sequence[RoutingRule], models: Sequence[ModelSpec], keys: Sequence[ApiKey]) -> list[Problem]:
    """Of rules that name a model or key which is not there."""
    problems = Problems(VARIABLE)
    known = [name for one in models for name in _names(one)]
    aliases, key_names = [*known, *new_aliases(rules, models)], [key.name for key in keys]
    lists = ", ".join(known)
    for rule in rules:
        if rule.model and rule.model not in known:
            reason = f"unknown model{did_you_mean(rule.model, known)}"
            problems.add(f"{rule.name}.model", rule.model, reason, allowed=lists, example=f"model: {known[0]}")
        for alias in rule.aliases:
            if not rule.model and alias not in aliases:
                reason = f"unknown model{did_you_mean(alias, known)}, and the rule has no `model` for it"
                problems.add(f"{rule.name}.alias", alias, reason, allowed=lists, example="model: " + known[0])
        for name in rule.keys:
            if name not in key_names:
                reason = f"unknown key{did_you_mean(name, key_names)}" if keys else "BERTH_API_KEYS is not set"
                allowed = ", ".join(key_names) or KEY.allowed
                problems.add(f"{rule.name}.key", name, reason, allowed=allowed, example=KEY.example)
    return problems.found


def check_rules(plan: Plan, keys: Sequence[ApiKey]) -> list[Problem]:
    """Of rules that name what does not serve, and of rules that never match. All names are known."""
    problems = Problems(VARIABLE)
    routes = {name: route for route in reversed(plan.routes) for name in (route.name, *route.aliases)}
    for place, rule in enumerate(plan.rules):
        targets = [routes[name] for name in ((rule.model,) if rule.model else rule.aliases)]
        if rule.engine:
            _check_engine(problems, plan, rule, targets)
        contexts = [route.context for route in targets or plan.models]
        if rule.least_tokens and all(context is not None and rule.least_tokens >= context for context in contexts):
            most = max(context or 0 for context in contexts)
            reason = f"no prompt is that long: the models have a context of {most} tokens"
            allowed, value = f"less than {most}", rule.conditions["prompt_tokens"]
            problems.add(f"{rule.name}.prompt_tokens", value, reason, allowed=allowed, example="prompt_tokens: '>=4k'")
        for key in (one for one in keys if one.name in rule.keys):
            _check_key(problems, rule, key, targets)
        earlier = next((one for one in plan.rules[:place] if covers(plan, one, rule, routes)), None)
        if earlier is not None:
            shown = ", ".join(f"{name}: {text}" for name, text in rule.conditions.items())
            reason = f"it can never match: all its requests match the rule {earlier.name!r}, which comes before"
            allowed = "a rule that some requests reach: put the one with more conditions first"
            problems.add(rule.name, shown, reason, allowed=allowed, example=EXAMPLE)
    return problems.found


def _check_engine(problems: Problems, plan: Plan, rule: RoutingRule, targets: Sequence[ModelRoute]) -> None:
    """That it serves each of the models that the rule names; without those at least one."""
    place, routes = f"{rule.name}.engine", targets or plan.models
    missing = [route for route in routes if not directed(plan, route, rule.engine)]
    if not missing or (not targets and len(missing) < len(routes)):
        return
    route = missing[0]
    idle = [one for name in route.replicas if rule.engine in (one := plan.replica(name)).called]
    names = ", ".join(dict.fromkeys(one.kind for one in serving(plan, route)))
    if idle:
        reason = f"{idle[0].name!r} serves {route.name!r} only after {route.replicas[0]!r} has failed"
        problems.add(place, rule.engine, reason, allowed=f"{names}, or with standby: hot", example="standby: hot")
        return
    reason = f"it does not serve {route.name!r}" if targets else "it serves no model"
    known = sorted({name for one in routes for replica in serving(plan, one) for name in replica.called})
    reason += did_you_mean(rule.engine, known)
    problems.add(place, rule.engine, reason, allowed=", ".join(known), example=SINGLE["engine"].example)


def _check_key(problems: Problems, rule: RoutingRule, key: ApiKey, targets: Sequence[ModelRoute]) -> None:
    """What the key is not allowed, a rule of its own cannot decide."""
    for route in targets:
        if key.models and not {route.name, *route.aliases} & set(key.models):
            reason = f"the key {key.name!r} may not use the model {route.name!r}"
            field, allowed = "model" if rule.model else "alias", ", ".join(key.models)
            value = rule.model or ", ".join(rule.aliases)
            problems.add(f"{rule.name}.{field}", value, reason, allowed=allowed, example=MODEL.example)
    if rule.priority and _PRIORITIES.index(rule.priority) < _PRIORITIES.index(key.priority):
        reason = f"the requests of the key {key.name!r} have at most the priority {key.priority!r}"
        allowed = ", ".join(_PRIORITIES[_PRIORITIES.index(key.priority) :])
        problems.add(
            f"{rule.name}.priority", rule.priority, reason, allowed=allowed, example=SINGLE["priority"].example
        )


def covers(plan: Plan, earlier: RoutingRule, later: RoutingRule, routes: Mapping[str, ModelRoute]) -> bool:
    """Every request that `later` matches is matched by `earlier`. `routes`: by name and alias."""
    most = earlier.most_tokens
    return (
        earlier.path in ("", later.path)
        and set(earlier.has) <= set(later.has)
        and set(earlier.lacks) <= set(later.lacks)
        and _within(later.keys, earlier.keys)
        and _within(_asked_for(plan, later, routes), earlier.aliases)
        and earlier.least_tokens <= later.least_tokens
        and (most is None or (later.most_tokens is not None and later.most_tokens <= most))
        and all(_implied(later.headers.get(name), text) for name, text in earlier.headers.items())
        and (
            not earlier.engine
            or bool(earlier.model or earlier.aliases)
            or _models(plan, later, routes) <= models_on(plan, earlier.engine)
        )
    )


def _within(some: Sequence[str], all_of: Sequence[str]) -> bool:
    return not all_of or (bool(some) and set(some) <= set(all_of))


def _asked_for(plan: Plan, rule: RoutingRule, routes: Mapping[str, ModelRoute]) -> Sequence[str]:
    """The names that requests which match the rule have. (): any."""
    if rule.aliases or rule.model or not rule.engine:
        return rule.aliases
    models = models_on(plan, rule.engine)
    return [name for name, route in routes.items() if (route.base or route.name) in models]


def _implied(narrow: str | None, wide: str) -> bool:
    """A value that matches the one pattern matches the other too: where that is certain."""
    if narrow is None:
        return False
    return wide in (narrow, "*") or (not set("*?") & set(narrow) and pattern(wide).fullmatch(narrow) is not None)


def _models(plan: Plan, rule: RoutingRule, routes: Mapping[str, ModelRoute]) -> set[str]:
    """The models that requests which match the rule may name. "": one that is not there."""
    if rule.aliases:
        found = [routes.get(alias) or routes[rule.model] for alias in rule.aliases]
        return {route.base or route.name for route in found}
    if rule.model:
        return {"", *(route.name for route in plan.models)}
    return set(models_on(plan, rule.engine)) if rule.engine else {route.name for route in plan.models}


def _names(model: ModelSpec) -> list[str]:
    return [model.name, *model.aliases, *(adapter.name for adapter in model.adapters)]

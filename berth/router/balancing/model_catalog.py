"""The public names of the plan's models: the route of a name or an alias, and /v1/models."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from berth.canonical import Operation
from berth.dialects import request_checks
from berth.errors import ApiError, MisdirectedError, ModelNotFoundError, shortened
from berth.plan import ApiKey, ModelRoute, Plan
from berth.plan.keys import OPEN
from berth.router.exchange.auth import may_use, require_model
from berth.state import AddedAdapter

_NAMES_SHOWN = 10
LATEST = ":latest"  # Ollama's clients add it to a name without a tag, or omit it


class ModelCatalog:
    """The models of one plan. A name takes precedence over an alias."""

    def __init__(self, plan: Plan) -> None:
        aliases = {alias: route for route in plan.models for alias in route.aliases}
        self._routes: dict[str, ModelRoute] = {**aliases, **{route.name: route for route in plan.routes}}
        self._models = plan.models
        heads = {one.model: one.ranks.url for one in plan.replicas if one.ranks and one.follows}
        self._heads = {route.name: heads[name] for route in plan.routes if (name := route.base or route.name) in heads}
        self._added: dict[str, ModelRoute] = {}  # the routes of their models, by the name of the adapter
        self._cards: dict[str, dict[str, Any]] = {}
        for route in plan.routes:
            # OpenAI's fields, and those of vLLM's that clients read: max_model_len, parent (of an adapter) and root
            fields: dict[str, Any] = {"object": "model", "created": plan.created, "owned_by": "berth"}
            if route.context is not None:
                fields["max_model_len"] = route.context
            if route.base:
                fields["parent"] = route.base
            fields |= {"root": route.name, "task": str(route.task)}
            self._cards |= {name: {"id": name, **fields} for name in (route.name, *route.aliases)}

    def set_added(self, added: Sequence[AddedAdapter]) -> None:
        """The adapters that were added while their models serve. Their requests count as those of the model."""
        for name in self._added:
            del self._routes[name], self._cards[name]
        self._added = {}
        for one in added:
            route = self._routes.get(one.model)
            if route is not None and one.name not in self._routes:
                self._added[one.name] = route
                self._routes[one.name] = replace(route, base=one.model, added=one.name)
                self._cards[one.name] = {
                    **self._cards[one.model],
                    "id": one.name,
                    "parent": one.model,
                    "root": one.name,
                }

    def resolve(self, name: str, operation: Operation | None = None, key: ApiKey = OPEN) -> ModelRoute:
        """ModelNotFoundError for an unknown name, ForbiddenError for a model that the key may not use, MisdirectedError
        for an operation of one that another box serves. Requests of some APIs name no model: "" means the only model
        that supports the operation.
        """
        if not name and operation is not None:
            mine = [route for route in self._models if may_use(key, route)]
            able = [route for route in mine if request_checks.serves(route.task, operation)]
            if len(able) == 1:
                return self._served_here(able[0])
            several = f"{len(able)} models support this request" if able else "no model here supports it"
            raise ModelNotFoundError(
                f"The request names no model, and {several}. Name one in 'model', in the header x-berth-model, or in "
                f"the path /models/NAME. {self._available(key)}",
                param="model",
                should_retry=False,
            )
        route = self._routes.get(name) or self._routes.get(self._known(name))
        if route is None:
            raise ModelNotFoundError(
                f"The model {shortened(name)!r} does not exist here. {self._available(key)}",
                param="model",
                should_retry=False,
            )
        if key.models:
            require_model(key, route)
        if self._heads and operation is not None:
            return self._served_here(route)
        return route

    def model_of(self, name: str, operation: Operation, key: ApiKey) -> str:
        """The model that a client names, also by an adapter or alias; "" for none that the key may use."""
        try:
            route = self.resolve(name, operation, key)
        except ApiError:
            return ""
        return route.base or route.name

    def _served_here(self, route: ModelRoute) -> ModelRoute:
        """MisdirectedError for a request to a model whose engine has its head on another box."""
        head = self._heads.get(route.name) or self._heads.get(route.base)
        if head is None:
            return route
        raise MisdirectedError(
            f"The model {shortened(route.name)!r} is served by {head}: send its requests there, here is a part of it.",
            should_retry=False,
        )

    def set_context(self, model: str, context: int) -> None:
        """Of the model and its adapters."""
        for name, route in tuple(self._routes.items()):
            if model in (route.name, route.base):
                self._routes[name] = replace(route, context=context)
                self._cards[name]["max_model_len"] = context

    def listing(self, key: ApiKey = OPEN) -> dict[str, Any]:
        """The response of GET /v1/models: those that the key may use."""
        cards = [card for name, card in self._cards.items() if may_use(key, self._routes[name])]
        return {"object": "list", "data": cards}

    def card(self, name: str, key: ApiKey = OPEN) -> dict[str, Any]:
        """The response of GET /v1/models/{name}. Errors as of `resolve`."""
        self.resolve(name, key=key)
        return self._cards[self._known(name)]

    def _known(self, name: str) -> str:
        """The name under which a model is listed; unchanged if there is none."""
        others = (name, name.removesuffix(LATEST), name + LATEST)
        return next((other for other in others if other in self._routes), name)

    def _available(self, key: ApiKey) -> str:
        names = [name for name in self._cards if may_use(key, self._routes[name])]
        if not names:
            return "No model is configured: set BERTH_MODELS."
        more = f" and {len(names) - _NAMES_SHOWN} more (GET /v1/models)" if len(names) > _NAMES_SHOWN else ""
        return f"Available: {', '.join(names[:_NAMES_SHOWN])}{more}."

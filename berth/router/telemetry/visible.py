"""What a client sees of the documents and events that describe the whole server. Pure.

An operator, and everybody where no keys are needed, sees all. A client sees its own requests, and no notice about
another client's key; with a key for some models it sees nothing of the others. A model is one of its own if it may use
it or one of its adapters.
"""

from dataclasses import dataclass
from typing import Any

from berth.plan import ApiKey, Plan
from berth.plan.keys import OPEN
from berth.router.exchange.auth import may_use

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    key: str = ""  # the client's name; "": all are seen
    models: frozenset[str] | None = None  # names of models and adapters; None: all
    replicas: frozenset[str] = frozenset()

    def status(self, document: Document) -> Document:
        """Of /status, and of the event `state`."""
        if not self.key:
            return document
        notices = [
            one
            for one in document["notices"]
            if one["key"] in ("", self.key) and self.sees(one["model"]) and not one["private"]
        ]
        if self.models is None:
            return {**document, "notices": notices}
        return {
            **document,
            "notices": notices,
            "warnings": [],  # of the plan, in words
            "preloads": [],
            "models": [
                {**one, "adapters": [adapter for adapter in one["adapters"] if self.sees(adapter["name"])]}
                for one in document["models"]
                if self._has(one)
            ],
            "gpus": [
                {
                    **gpu,
                    "memory_by_engine": [
                        part if part["replica"] in self.replicas else {**part, "replica": ""}
                        for part in gpu["memory_by_engine"]
                    ],
                }
                for gpu in document["gpus"]
            ],
        }

    def plan(self, document: Document) -> Document:
        """Of /plan. The configuration names the other clients, and what the operator has set is not for clients."""
        if not self.key:
            return document
        document = {**document, "configuration": []}
        if self.models is None:
            return document
        return {**document, "warnings": [], "models": [one for one in document["models"] if self._has(one)]}

    def traffic(self, document: Document) -> Document:
        if self.models is None:
            return document
        return {
            **document,
            "models": {name: one for name, one in document["models"].items() if name in self.models},
            "replicas": {name: one for name, one in document["replicas"].items() if name in self.replicas},
        }

    def requests(self, document: Document) -> Document:
        if not self.key:
            return document
        own = {name: [one for one in document[name] if one["key"] == self.key] for name in ("requests", "running")}
        return {**document, **own}

    def sees(self, model: str) -> bool:
        """`model`: "" is none, and seen by all."""
        return not model or self.models is None or model in self.models

    def _has(self, model: Document) -> bool:
        """An adapter's replicas are those of its model."""
        return any(one["name"] in self.replicas for one in model["replicas"])


ALL = Visible()


def visible(plan: Plan, key: ApiKey) -> Visible:
    if key is OPEN:
        return ALL
    if not key.models:
        return Visible(key=key.name)
    own = [route for route in plan.routes if may_use(key, route)]
    return Visible(
        key=key.name,
        models=frozenset(route.name for route in own),
        replicas=frozenset(name for route in own for name in route.replicas),
    )

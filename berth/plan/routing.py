"""The rules of BERTH_ROUTES: which requests go to which engine and model, and with which priority."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from berth.plan import ModelRoute, Plan, Replica

# What a rule may ask of a request's parameters.
PARAMETERS: Final = ("tools", "response_format", "logprobs", "stream", "image", "audio")
Parameter = Literal["tools", "response_format", "logprobs", "stream", "image", "audio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRule:
    """The first rule whose conditions all hold decides about a request. A condition that is empty always holds."""

    name: str
    # conditions
    path: str = ""  # the prefix in front of an API's path: "/batch"
    has: tuple[Parameter, ...] = ()
    lacks: tuple[Parameter, ...] = ()
    keys: tuple[str, ...] = ()  # names of API keys: one of them
    headers: dict[str, str] = field(default_factory=dict)  # name in lower case -> pattern with * and ?
    least_tokens: int = 0  # of the prompt, by an estimate
    most_tokens: int | None = None
    aliases: tuple[str, ...] = ()  # the model that the client names: one of them
    # what it decides
    engine: str = ""  # or the name of a replica: it comes first
    only: bool = False  # and no other serves the request
    model: str = ""
    priority: Literal["", "high", "normal", "low"] = ""

    @property
    def conditions(self) -> dict[str, str]:
        """For people, by the name of the field in BERTH_ROUTES."""
        least = f">={self.least_tokens}" if self.least_tokens else ""
        most = f"<={self.most_tokens}" if self.most_tokens is not None else ""
        given = {
            "path": self.path,
            "has": ", ".join(self.has),
            "not": ", ".join(self.lacks),
            "key": ", ".join(self.keys),
            "header": ", ".join(f"{name}: {pattern}" for name, pattern in self.headers.items()),
            "prompt_tokens": " ".join(filter(None, (least, most))),
            "alias": ", ".join(self.aliases),
        }
        return {name: text for name, text in given.items() if text}

    @property
    def decision(self) -> dict[str, str]:
        """For people, as `conditions`."""
        given = {"engine": self.engine, "only": "true" * self.only, "model": self.model, "priority": self.priority}
        return {name: text for name, text in given.items() if text}

    @property
    def document(self) -> dict[str, Any]:
        """As in /status and /plan."""
        return {"name": self.name, "if": self.conditions, "then": self.decision}

    def __str__(self) -> str:
        """For people: "path: /batch -> engine: vllm"."""
        said = [", ".join(f"{name}: {text}" for name, text in one.items()) for one in (self.conditions, self.decision)]
        return f"{said[0] or 'always'} -> {said[1]}"


def pattern(text: str) -> re.Pattern[str]:
    """Of the values of a header, upper case and lower case alike; for `fullmatch`."""
    return re.compile(re.escape(text).replace(r"\*", ".*").replace(r"\?", "."), re.IGNORECASE | re.DOTALL)


def serving(plan: "Plan", route: "ModelRoute") -> "list[Replica]":
    """The replicas that get requests while none has failed."""
    replicas = [plan.replica(name) for name in route.replicas]
    return [one for place, one in enumerate(replicas) if place == 0 or one.attached or route.standby == "hot"]


def directed(plan: "Plan", route: "ModelRoute", engine: str) -> "list[Replica]":
    """Those of them that a rule means. An attached server that has not been identified yet may be any."""
    return [one for one in serving(plan, route) if engine in one.called or (one.detects and one.unreached)]


def models_on(plan: "Plan", engine: str) -> frozenset[str]:
    """The models that such a replica serves."""
    return frozenset(route.name for route in plan.models if directed(plan, route, engine))

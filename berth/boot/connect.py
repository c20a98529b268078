"""`berth connect CLIENT`: what to write into a client to use this Berth. The page at /ui/ shows the same, from the same
file.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from berth.errors import ConfigError, Problem
from berth.plan import ModelRoute, Plan, Task

FILE: Final = Path(__file__).parents[1] / "page/connect.json"
_PLACE: Final = re.compile(r"\{(url|key|model|context)\}")
_USUAL_CONTEXT: Final = 32768


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """`text` and `where` have places for url, key, model and context."""

    id: str
    title: str
    task: Task
    language: str
    text: str
    where: str = ""

    def filled(self, values: Mapping[str, str]) -> str:
        """With the note where it goes, as a comment."""
        note = f"# {self.where}\n" if self.where else ""
        return _PLACE.sub(lambda found: values[found.group(1)], note + self.text)


@cache
def clients() -> Mapping[str, Client]:
    """By id, in the order of the page."""
    return {
        entry["id"]: Client(
            id=entry["id"],
            title=entry["title"],
            task=Task(entry["task"]),
            language=entry["language"],
            text="\n".join(entry["lines"]),
            where=entry.get("where", ""),
        )
        for entry in json.loads(FILE.read_text(encoding="utf-8"))
    }


def snippet(plan: Plan, name: str, *, model: str, url: str, key: str) -> str:
    """For a client of the plan's Berth; "" stands for the first model that fits, this host, and no key. ConfigError for
    a client or a model that there is not. Without a client: the list of all.
    """
    if not name:
        return "\n".join(f"{one.id:15} {one.title}" for one in clients().values())
    if (client := clients().get(name)) is None:
        problem = Problem(
            variable="CLIENT",
            value=name,
            reason="is not known",
            allowed=", ".join(clients()),
            example="berth connect claude",
        )
        raise ConfigError([problem])
    route = route_for(plan, client, model)
    values = {
        "url": url.rstrip("/") or plan.listen.client_url("localhost"),
        "key": key or ("none" if plan.open_access else "YOUR_KEY"),
        "model": model or route.name,
        "context": str(route.context or _USUAL_CONTEXT),
    }
    return client.filled(values)


def route_for(plan: Plan, client: Client, model: str) -> ModelRoute:
    """The model of this name or alias; without one the first of the client's task."""
    fitting = [route for route in plan.routes if route.task is client.task]
    found = [route for route in fitting if not model or model in (route.name, *route.aliases)]
    if not found:
        problem = Problem(
            variable="--model",
            value=model,
            reason=f"no model of the task {client.task} has this name"
            if model
            else f"no model has {client.task} as task",
            allowed=", ".join(route.name for route in fitting) or "none here",
            example=f"berth connect {client.id} --model NAME",
        )
        raise ConfigError([problem])
    return found[0]

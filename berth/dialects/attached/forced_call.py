"""A forced call of a tool: servers of OpenAI's API ignore it in silence, so the response is checked for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import orjson

from berth.canonical import Failure, InferenceRequest, Json
from berth.dialects.failures import unsupported_failure


def forced_name(body: Json) -> str | None:
    """The function that the request forces; "": any; None: none."""
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        return (choice.get("function") or {}).get("name") or ""
    return "" if choice == "required" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForcedCall:
    server: str  # for messages
    name: str  # of the function; "": any
    may_be_cut: bool  # the call may be missing where the limit of tokens was reached

    @classmethod
    def of(cls, request: InferenceRequest, server: str, *, enforced: bool) -> Self | None:
        """None where no call is forced. `enforced`: the server is known to force calls by a grammar."""
        name = forced_name(request.body)
        return None if name is None else cls(server=server, name=name, may_be_cut=enforced)

    def missing_in(self, body: bytes) -> Failure | None:
        """In a whole canonical response."""
        for choice in orjson.loads(body)["choices"]:
            calls = (choice.get("message") or {}).get("tool_calls") or ()
            names = [(call.get("function") or {}).get("name") for call in calls]
            if failure := self.missing(names, choice.get("finish_reason")):
                return failure
        return None

    def missing(self, names: Sequence[str | None], finish_reason: str | None) -> Failure | None:
        """In a choice that calls these functions."""
        if self.may_be_cut and finish_reason == "length" and not names:
            return None
        if not names:
            message = f"{self.server} called no tool, though the request forces a call"
            return unsupported_failure(message, "tool_choice")
        if self.name and set(names) != {self.name}:
            message = f"{self.server} called {names[0]!r} instead of {self.name!r}"
            return unsupported_failure(message, "tool_choice")
        return None

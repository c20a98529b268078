"""What a response must have because the request asked for it. Servers of OpenAI's API ignore much in silence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from berth.canonical import Failure, InferenceRequest, Json, Operation
from berth.dialects.choices import expected_choices
from berth.dialects.failures import unsupported_failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """Of one response; all of them can be seen in it."""

    server: str  # for messages
    choices: int
    logprobs: bool
    call: str | None  # the function that must be called; "": any; None: no call is forced
    may_be_cut: bool  # a forced call may be missing where the limit of tokens was reached

    @classmethod
    def of(cls, request: InferenceRequest, server: str, *, enforces_calls: bool) -> Self | None:
        """None where there is nothing to check. `enforces_calls`: the server is known to force calls by a grammar."""
        if request.operation not in {Operation.CHAT, Operation.COMPLETION}:
            return None
        body = request.body
        wanted = body.get("logprobs")
        logprobs = wanted is not None and wanted is not False
        choices, call = expected_choices(request), forced_call(body)
        if choices == 1 and not logprobs and call is None:
            return None
        return cls(server=server, choices=choices, logprobs=logprobs, call=call, may_be_cut=enforces_calls)

    def broken_by(self, response: Json) -> Failure | None:
        """By a whole canonical response."""
        choices = response["choices"]
        if len(choices) < self.choices:
            return self.too_few(len(choices))
        for choice in choices:
            message = choice.get("message") or {}
            if self.logprobs and (message.get("content") or choice.get("text")) and not choice.get("logprobs"):
                return self.no_logprobs()
            names = [(call.get("function") or {}).get("name") for call in message.get("tool_calls") or ()]
            if failure := self.no_call(names, choice.get("finish_reason")):
                return failure
        return None

    def broken_by_frame(self, chunk: Json, names: dict[int, list[str]]) -> Failure | None:
        """Log probabilities come with each text, a forced call before the end of its choice. `names`: the functions
        that each choice has called so far, which this frame adds to.
        """
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if self.logprobs and (delta.get("content") or choice.get("text")) and not choice.get("logprobs"):
                return self.no_logprobs()
            called = names.setdefault(choice.get("index", 0), [])
            calls = delta.get("tool_calls") or ()
            called += [name for call in calls if (name := (call.get("function") or {}).get("name"))]
            reason = choice.get("finish_reason")
            if reason is not None and (failure := self.no_call(called, reason)):
                return failure
        return None

    def too_few(self, found: int) -> Failure:
        return unsupported_failure(f"{self.server} returned {found} of {self.choices} choices", "n")

    def no_logprobs(self) -> Failure:
        return unsupported_failure(f"{self.server} returned no log probabilities", "logprobs")

    def no_call(self, names: Sequence[str | None], finish_reason: str | None) -> Failure | None:
        """Of one choice: the functions that it calls."""
        if self.call is None or (self.may_be_cut and finish_reason == "length" and not names):
            return None
        if not names:
            return unsupported_failure(
                f"{self.server} did not call a tool, though the request forces it", "tool_choice"
            )
        if self.call and set(names) != {self.call}:
            message = f"{self.server} called {names[0]!r} instead of {self.call!r}"
            return unsupported_failure(message, "tool_choice")
        return None


def forced_call(body: Json) -> str | None:
    """The function that the request forces; "": any; None: none."""
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        return (choice.get("function") or {}).get("name") or ""
    return "" if choice == "required" else None

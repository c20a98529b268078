"""The canary: a request for one token, which shows what no health path does. It is sent after each load and wake, and
to engines that generate nothing while requests run.

The text does not count, since it differs between machines. The numbers do: damaged weights, and those that a wake has
lost, show as log probabilities, vectors or scores that are not finite, or as a most probable token that is less
probable than each of so many tokens would be by chance.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from berth.canonical import EngineResponse, FailureKind, InferenceRequest, Json, Operation
from berth.control.probes import Prober
from berth.dialects.base import UnsupportedError
from berth.dialects.failures import MISSING_ENDPOINT
from berth.dialects.registry import dialect_of
from berth.plan import Replica, Task

_ONE: Final[Json] = {"max_tokens": 1, "temperature": 0}
_REQUESTS: Final[Mapping[Task, Sequence[tuple[Operation, Json]]]] = {  # in turn, until one is understood
    Task.GENERATE: (
        (Operation.COMPLETION, {"prompt": ".", "logprobs": 1, **_ONE}),
        (Operation.COMPLETION, {"prompt": ".", **_ONE}),
        (Operation.CHAT, {"messages": [{"role": "user", "content": "."}], **_ONE}),
    ),
    Task.EMBED: ((Operation.EMBEDDING, {"input": "."}),),
    Task.RERANK: ((Operation.RERANK, {"query": ".", "documents": ["."]}),),
    Task.CLASSIFY: ((Operation.CLASSIFY, {"input": "."}),),
}
_LARGEST_VOCABULARY: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryResult:
    """No error: the answer is sane, or the engine does not understand the question, which says nothing."""

    error: str = ""
    answered: bool = True  # in time; errors are answers too


class Canary:
    """`limit_s`: for the whole response."""

    def __init__(self, prober: Prober, limit_s: float) -> None:
        self._prober = prober
        self._limit_s = limit_s

    async def ask(self, replica: Replica) -> CanaryResult:
        """Never raises."""
        dialect = dialect_of(replica)
        for operation, body in _REQUESTS[replica.task]:
            request = InferenceRequest(operation=operation, model=replica.model, body=body)
            try:
                sent = dialect.request(request, replica.served_name)
            except UnsupportedError:
                continue
            response = await self._prober.request(replica, "POST", sent.path, sent.body, self._limit_s)
            if isinstance(response, str):
                return CanaryResult(error=response, answered=False)
            if response.ok and (error := insane(response.body, replica.vocab_size)):
                return CanaryResult(error=error)
            answer = dialect.answer(request, replica.model, response.status, response.body)
            if isinstance(answer, EngineResponse):
                return CanaryResult()
            if answer.kind is FailureKind.ENGINE and response.status not in MISSING_ENDPOINT:
                return CanaryResult(error=f"{sent.path} returned {response.status}: {answer.message}")
        return CanaryResult()


def insane(body: bytes, vocab_size: int | None) -> str:
    """What is wrong with the numbers in an answer; "" for nothing, or an answer of another form."""
    least = -math.log(vocab_size or _LARGEST_VOCABULARY) - 1
    try:
        document: Any = json.loads(body)  # it reads NaN too
        for choice in document.get("choices") or ():
            for value in (choice.get("logprobs") or {}).get("token_logprobs") or ():
                if not _finite(value) or value < least:
                    return f"the log probability of its most probable token is {value}"
        wrong = next((value for value in scores(document) if not _finite(value)), "")
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ""
    return f"its answer has the number {wrong}" if wrong != "" else ""


def scores(document: Json) -> Iterator[Any]:
    """Of vectors, ranks and classes."""
    for one in document.get("data") or ():
        for name in ("embedding", "probs"):
            values = one.get(name)
            yield from values if isinstance(values, list) else ()
    yield from (one.get("relevance_score") for one in document.get("results") or ())


def _finite(value: object) -> bool:
    """JSON has no other numbers, so that engines write null for them."""
    return isinstance(value, int | float) and math.isfinite(value)

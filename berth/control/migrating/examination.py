"""The check of a candidate before it gets requests: it is warmed up, and its answers must be sane.

Texts of two engines differ, also with equal weights and without sampling. So equal texts are counted and reported, and
decide nothing. What the candidate must do: answer every request, with text, its finish reason and its usage; answer
in a stream that ends; keep to a schema, if the replica that serves does; and give sane numbers (see `hangs.canary`).
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from berth import json_text
from berth.canonical import EngineResponse, InferenceRequest, Json, Operation
from berth.control.hangs.canary import Canary
from berth.control.probes import Prober, Response
from berth.dialects.base import UnsupportedError
from berth.dialects.registry import dialect_of
from berth.plan import Replica, Task

WARM_UPS: Final = 8  # at the same time
PROMPTS: Final = (
    "Name three rivers.",
    "Write one sentence about rain.",
    "What is 17 plus 25?",
    "Translate to French: good morning.",
)
_SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 20}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}
_TOKENS: Final = 32
_SCHEMA_TOKENS: Final = 200
_REPEATED: Final = 12  # characters of a text that consists of one


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    error: str = ""  # "": it may get requests
    summary: str = ""


class Examination:
    """`limit_s`: for each response."""

    def __init__(self, prober: Prober, canary: Canary, limit_s: float) -> None:
        self._prober = prober
        self._canary = canary
        self._limit_s = limit_s

    async def check(self, candidate: Replica, stable: Replica | None) -> Finding:
        """Never raises. `stable`: None: it does not run, and nothing is compared."""
        if error := (await self._canary.ask(candidate)).error:
            return Finding(error=error)
        if candidate.task is not Task.GENERATE:
            return Finding(summary="its answer is sane")
        warm = await asyncio.gather(*(self.ask(candidate, f"Count to {number}.") for number in range(WARM_UPS)))
        own = await asyncio.gather(*(self.ask(candidate, prompt) for prompt in PROMPTS))
        error = next((error for _text, error in (*warm, *own) if error), "") or await self.streams(candidate)
        if error:
            return Finding(error=error)
        if stable is None:
            return Finding(summary=f"{len(own)} answers are sane")
        other = await asyncio.gather(*(self.ask(stable, prompt) for prompt in PROMPTS))
        equal = sum(one == another for (one, _), (another, _) in zip(own, other, strict=True))
        if (error := await self.fits(candidate)) and not await self.fits(stable):
            return Finding(error=error)
        return Finding(summary=f"{len(own)} answers are sane, {equal} with the same text as now")

    async def probe(self, replica: Replica, number: int) -> str:
        """What is wrong with its answer to a request of Berth's own; "": nothing."""
        if replica.task is not Task.GENERATE:
            return (await self._canary.ask(replica)).error
        return (await self.ask(replica, PROMPTS[number % len(PROMPTS)]))[1]

    async def ask(self, replica: Replica, prompt: str) -> tuple[str, str]:
        """The text, and what is wrong with the answer."""
        answer = await self._generated(replica, prompt, {"max_tokens": _TOKENS})
        if isinstance(answer, str):
            return "", answer
        choice, text = _first(answer)
        if not text:
            error = f"no text for {prompt!r}"
        elif len(text) >= _REPEATED and len(set(text)) == 1:
            error = f"the answer to {prompt!r} consists of {text[0]!r}"
        elif not choice.get("finish_reason") or not answer.usage.completion_tokens:
            error = f"no finish reason or usage for {prompt!r}"
        else:
            error = ""
        return text, error

    async def fits(self, replica: Replica) -> str:
        """What is wrong with an answer that has to match a schema."""
        form = {"type": "json_schema", "json_schema": {"name": "check", "schema": _SCHEMA, "strict": True}}
        fields = {"max_tokens": _SCHEMA_TOKENS, "response_format": form}
        answer = await self._generated(replica, "Is the sky blue? Answer in JSON.", fields)
        if isinstance(answer, str):
            return answer
        try:
            found = json_text.loads(_first(answer)[1].encode())
        except ValueError:
            found = None
        fits = isinstance(found, dict) and found.keys() == {"answer", "sure"} and isinstance(found["sure"], bool)
        return "" if fits else "its answer does not match the requested schema"

    async def streams(self, replica: Replica) -> str:
        """What is wrong with a stream."""
        _request, response = await self._post(replica, PROMPTS[0], {"max_tokens": _TOKENS, "stream": True})
        if isinstance(response, str):
            return response
        ends = response.body.rstrip().endswith(b"[DONE]")
        return "" if response.ok and ends else f"its stream does not end ({response.status})"

    async def _generated(self, replica: Replica, prompt: str, fields: Json) -> EngineResponse | str:
        """The response, or the error."""
        request, response = await self._post(replica, prompt, fields)
        if isinstance(response, str):
            return response
        answer = dialect_of(replica).answer(request, replica.model, response.status, response.body)
        return answer if isinstance(answer, EngineResponse) else f"{request.operation}: {answer.message}"

    async def _post(self, replica: Replica, prompt: str, fields: Json) -> tuple[InferenceRequest, Response | str]:
        """As a chat, or as a completion of a model that has no template for chats."""
        bodies: dict[Operation, Json] = {
            Operation.CHAT: {"messages": [{"role": "user", "content": prompt}]},
            Operation.COMPLETION: {"prompt": prompt},
        }
        stream = bool(fields.get("stream"))
        requests = [
            InferenceRequest(
                operation=one, model=replica.model, body={**body, **fields, "temperature": 0}, stream=stream
            )
            for one, body in bodies.items()
        ]
        for request in requests:
            try:
                sent = dialect_of(replica).request(request, replica.served_name)
            except UnsupportedError as error:
                return request, error.message
            response = await self._prober.request(replica, "POST", sent.path, sent.body, self._limit_s)
            if isinstance(response, str) or not 400 <= response.status < 500:
                break
        return request, response


def _first(answer: EngineResponse) -> tuple[dict[str, Any], str]:
    """The first choice, and its text: reasoning counts too."""
    choice: Any = json_text.loads(answer.body)["choices"][0]
    message = choice.get("message") or {"content": choice.get("text")}
    return choice, message.get("content") or message.get("reasoning_content") or message.get("reasoning") or ""

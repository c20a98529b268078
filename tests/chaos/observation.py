"""What the official client observes of a response, and its outcome: complete, or an exception."""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx
import openai
from openai import AsyncOpenAI

from berth.sim.options import PARAGRAPH

PROMPT = "Hello"
HELLO: Any = [{"role": "user", "content": PROMPT}]
CLIENT_TIMEOUT_S = 60.0


class Outcome(StrEnum):
    WHOLE = "whole"  # the text and its end, exactly
    TOLD = "told"  # an exception, and what came before it is right
    SILENT = "silent"  # a short text that looks complete: what must never be
    WRONG = "wrong"  # another text: what must never be


class Api(StrEnum):
    CHAT = "chat"
    COMPLETIONS = "completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One of the ways to ask for a text."""

    api: Api
    stream: bool

    def __str__(self) -> str:
        return f"{self.api} {'streamed' if self.stream else 'whole'}"


WAYS = tuple(Way(api=api, stream=stream) for api in Api for stream in (True, False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """An answer as the client's code has it."""

    model: str
    way: Way
    text: str
    finish: str | None
    tokens: int | None = None  # of the answer, where the client was told
    error: Exception | None = None

    def outcome(self, expected: str = PARAGRAPH, finish: str = "stop") -> Outcome:
        if not expected.startswith(self.text):
            return Outcome.WRONG
        if self.error is not None:
            return Outcome.TOLD
        return Outcome.WHOLE if (self.text, self.finish) == (expected, finish) else Outcome.SILENT


def verdicts(
    answers: Iterable[Observation], expected: str = PARAGRAPH, finish: str = "stop"
) -> dict[str, set[Outcome]]:
    """By model."""
    found: dict[str, set[Outcome]] = {}
    for one in answers:
        found.setdefault(one.model, set()).add(one.outcome(expected, finish))
    return found


def make_client(url: str) -> AsyncOpenAI:
    """Every request once: what Berth does not save is seen."""
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=CLIENT_TIMEOUT_S)


async def ask(
    client: AsyncOpenAI, model: str, way: Way, heard: Callable[[int], None] = lambda _: None, **fields: Any
) -> Observation:
    """`heard` is called with the number of the chunks so far. Nothing but a cancellation comes out of here."""
    pieces: list[str] = []
    finish, tokens, error = None, None, None
    try:
        async for part in _parts(client, model, way, fields):
            pieces += [_text(choice) for choice in part.choices]
            finish = next((choice.finish_reason for choice in part.choices), None) or finish
            tokens = part.usage.completion_tokens if part.usage else tokens
            heard(len(pieces))
    except (openai.OpenAIError, httpx.HTTPError) as exc:
        error = exc
    return Observation(model=model, way=way, text="".join(pieces), finish=finish, tokens=tokens, error=error)


async def _parts(client: AsyncOpenAI, model: str, way: Way, fields: dict[str, Any]) -> AsyncIterator[Any]:
    """The chunks of a stream, or the one whole answer."""
    chat = way.api is Api.CHAT
    create: Any = client.chat.completions.create if chat else client.completions.create
    asked = {"messages": HELLO} if chat else {"prompt": PROMPT}
    answer = await create(model=model, stream=way.stream, **(asked | fields))
    if not way.stream:
        yield answer
        return
    async for chunk in answer:
        yield chunk


def _text(choice: Any) -> str:
    says = getattr(choice, "delta", None) or getattr(choice, "message", None)
    return (says.content if says is not None else choice.text) or ""

"""The clients of a soak: they send one request after another and record the outcome."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import openai
from openai import AsyncOpenAI

from tests.chaos.observation import WAYS, Observation, Outcome, Way, ask, make_client
from tests.chaos.sim_router import ENOUGH


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is kept of one; its text only where that is not as it should be."""

    model: str
    way: Way
    outcome: Outcome
    reason: str  # of a failure that was told
    text: str
    took_s: float

    @property
    def is_honest(self) -> bool:
        return self.outcome in {Outcome.WHOLE, Outcome.TOLD}


def answer(seen: Observation, took_s: float) -> Answer:
    outcome = seen.outcome()
    return Answer(
        model=seen.model,
        way=seen.way,
        outcome=outcome,
        reason=reason(seen.error),
        text=seen.text if outcome in {Outcome.SILENT, Outcome.WRONG} else "",
        took_s=took_s,
    )


def reason(error: Exception | None) -> str:
    match error:
        case None:
            return ""
        case openai.APIStatusError():
            return f"refused with {error.status_code} {error.code}"
        case openai.APIConnectionError():
            return f"{type(error).__name__}: {error.__cause__!r}"
        case openai.APIError():
            return f"an error in the stream: {error.code}"
    return f"{type(error).__name__}: {error}"


async def run_clients(url: str, models: Sequence[str], clients: int, seconds: float) -> list[Answer]:
    """`clients` at a time, for so long; each then waits for its last answer."""
    until = time.monotonic() + seconds
    answers: list[Answer] = []
    async with make_client(url) as client, asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(_go_on(client, models, number, until, answers))
    return answers


async def _go_on(client: AsyncOpenAI, models: Sequence[str], first: int, until: float, answers: list[Answer]) -> None:
    asks = [(model, way) for way in WAYS for model in models]
    for number in count(first):
        began = time.monotonic()
        if began > until:
            return
        model, way = asks[number % len(asks)]
        seen = await ask(client, model, way, max_tokens=ENOUGH)
        answers.append(answer(seen, time.monotonic() - began))
        if seen.error is not None:
            await asyncio.sleep(0.1)  # as a client does that was refused

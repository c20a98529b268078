"""What an engine's answers are worth, before its speed counts: its scores, its JSON by schema, its tool calls."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import jsonschema_rs

from berth.bench.client import EngineClient
from berth.bench.likeness import Agreement, Scores, agreement, judged
from berth.records.results import Quality

TOPS: Final = 10
TOKENS: Final = 32
CUT: Final = "cut"
_AT_ONCE: Final = 8
_MOST_TOKENS: Final = 400  # of JSON
_LONGEST_PROBLEM: Final = 160

TEXTS: Final = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Dear customer,\n\nThank you for your message of",
    "To make bread one needs flour, water and",
    "Die Eisenbahn fährt von Hamburg nach",
    "SELECT name, price FROM products WHERE",
    "Q: What is 17 times 6?\nA:",
    "Once upon a time a fox lived near the",
    "The three laws of thermodynamics say that",
    "import json\n\ndata = json.loads(",
    "Le petit déjeuner est servi de sept heures à",
    "Newton was born in the year",
    "# Installation\n\nRun the following commands:",
    "She opened the door and saw",
    "The boiling point of water at sea level is",
    "1, 1, 2, 3, 5, 8,",
)
_NAME: Final = {"type": "string", "maxLength": 20}
SCHEMAS: Final[tuple[dict[str, Any], ...]] = (
    {"type": "object", "properties": {"name": _NAME, "age": {"type": "integer"}}, "required": ["name", "age"]},
    {"type": "object", "properties": {"colour": {"enum": ["red", "green", "blue"]}}, "required": ["colour"]},
    {
        "type": "object",
        "properties": {"tags": {"type": "array", "items": _NAME, "minItems": 1, "maxItems": 3}},
        "required": ["tags"],
    },
    {
        "type": "object",
        "properties": {
            "place": {
                "type": "object",
                "properties": {"city": _NAME, "open": {"type": "boolean"}},
                "required": ["city", "open"],
            }
        },
        "required": ["place"],
    },
    {"type": "object", "properties": {"größe": {"type": "integer"}}, "required": ["größe"]},
)
TOOLS: Final[tuple[dict[str, Any], ...]] = tuple(
    {"type": "function", "function": {"name": f"tool_{number}", "description": "A tool.", "parameters": schema}}
    for number, schema in enumerate(SCHEMAS)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the first engine said."""

    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    scores: tuple[Scores, ...]
    floor: Agreement | None  # of the engine with itself


async def reference_of(client: EngineClient, prompts: int = len(TEXTS)) -> Reference:
    """Greedy answers, and how the engine scores them itself, one at a time and several together. OSError or ValueError
    where it does not say.
    """
    model = client.replica.served_name
    ids, answers = list[tuple[int, ...]](), list[tuple[int, ...]]()
    for text in TEXTS[:prompts]:
        prompt = (await client.call("/tokenize", {"model": model, "prompt": text}))["tokens"]
        body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "return_token_ids": True}
        choice = (await client.call("/v1/completions", body))["choices"][0]
        said = (
            choice.get("token_ids")
            or (
                await client.call("/tokenize", {"model": model, "prompt": choice["text"], "add_special_tokens": False})
            )["tokens"]
        )
        ids.append(tuple(prompt))
        answers.append(tuple(said))
    alone = [await scored(client, prompt, answer) for prompt, answer in zip(ids, answers, strict=True)]
    together = await all_scored(client, ids, answers)
    return Reference(prompts=tuple(ids), answers=tuple(answers), scores=tuple(alone), floor=agreement(alone, together))


async def quality_of(client: EngineClient, reference: Reference | None) -> Quality:
    """Never raises: what does not work is a problem of the engine."""
    found, problems = Quality(likeness=judged(None, None).likeness), list[str]()
    if reference is not None:
        try:
            scores = await all_scored(client, reference.prompts, reference.answers)
            found = judged(agreement(reference.scores, scores), reference.floor)
        except (OSError, ValueError, LookupError, TypeError) as error:
            problems.append(f"it does not score given answers: {error}"[:_LONGEST_PROBLEM])
    valid = [await _problem_of(client, schema_body(client, schema), schema, tool=False) for schema in SCHEMAS]
    called = [
        await _problem_of(client, tool_body(client, tool), tool["function"]["parameters"], tool=True) for tool in TOOLS
    ]
    problems += dict.fromkeys(problem for problem in (*valid, *called) if problem not in ("", CUT))
    return replace(
        found,
        schemas=(valid.count(""), len(valid) - valid.count(CUT)),
        tools=(called.count(""), len(called) - called.count(CUT)),
        problems=tuple(problems),
    )


async def all_scored(
    client: EngineClient, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[Scores]:
    door = asyncio.Semaphore(_AT_ONCE)

    async def one(prompt: Sequence[int], answer: Sequence[int]) -> Scores:
        async with door:
            return await scored(client, prompt, answer)

    return list(await asyncio.gather(*map(one, prompts, answers)))


async def scored(client: EngineClient, prompt: Sequence[int], answer: Sequence[int]) -> Scores:
    """Of each token of the answer, given all that comes before it: the likeliest ones. No token is generated but the
    one without which engines do not answer.
    """
    body = {
        "model": client.replica.served_name,
        "prompt": [*prompt, *answer],
        "max_tokens": 1,
        "temperature": 0,
        "echo": True,
        "logprobs": TOPS,
    }
    choice = (await client.call("/v1/completions", body))["choices"][0]
    tops: list[Mapping[str, float] | None] = choice["logprobs"]["top_logprobs"]
    return [one or {} for one in tops[len(prompt) : len(prompt) + len(answer)]]


def schema_body(client: EngineClient, schema: dict[str, Any]) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    return {**_chat(client, "Answer with an example, as JSON."), "response_format": form}


def tool_body(client: EngineClient, tool: dict[str, Any]) -> dict[str, Any]:
    choice = {"type": "function", "function": {"name": tool["function"]["name"]}}
    function = {**tool["function"], "strict": True}
    return {**_chat(client, "Call the tool."), "tools": [{**tool, "function": function}], "tool_choice": choice}


def _chat(client: EngineClient, text: str) -> dict[str, Any]:
    return {
        "model": client.replica.served_name,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": _MOST_TOKENS,
        "temperature": 0,
    }


async def _problem_of(client: EngineClient, body: dict[str, Any], schema: dict[str, Any], *, tool: bool) -> str:
    """Why the answer does not keep to the schema; "" if it does. One that reached its limit of tokens says nothing."""
    what = "tool call" if tool else "schema"
    try:
        choice = (await client.call("/v1/chat/completions", body))["choices"][0]
        if choice["finish_reason"] == "length":
            return CUT
        message = choice["message"]
        text = message["tool_calls"][0]["function"]["arguments"] if tool else message["content"]
        jsonschema_rs.validate(schema, json.loads(text))
    except (OSError, ValueError, LookupError, TypeError, jsonschema_rs.ValidationError) as error:
        return f"{what}: {type(error).__name__}: {error}"[:_LONGEST_PROBLEM].replace("\n", " ")
    return ""

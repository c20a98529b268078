"""Whether a server continues an answer that a request brings, seen in its responses to a few short requests.

Many servers ignore the fields that ask for it, close the answer's turn and begin another one.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from berth.canonical import EngineResponse, Json, Operation

Generate = Callable[[Operation, Json], Awaitable[EngineResponse | None]]  # None: the server returned none

_TEXT: Final = "one two three four"
_ONE: Final[Json] = {"max_tokens": 1, "temperature": 0}


async def continued_operations(generate: Generate, known: Mapping[Operation, bool | None]) -> tuple[str, ...]:
    """Those that it continues. `known`: of its kind; None: it has to be asked."""
    found = []
    for operation, asks in ((Operation.CHAT, continues_chats), (Operation.COMPLETION, continues_completions)):
        already = known[operation]
        if already or (already is None and await asks(generate)):
            found.append(operation.value)
    return tuple(found)


async def continues_chats(generate: Generate) -> bool:
    """By the number of tokens in the prompt. A turn that is left open adds those of its text. One that is closed, and
    followed by a new one, adds those of the template too, which are at least two.
    """

    async def count(roles: Sequence[str], texts: Sequence[str], **fields: bool) -> int:
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        answer = await generate(Operation.CHAT, {"messages": messages, **_ONE, **fields})
        return answer.usage.prompt_tokens if answer else 0

    turns = ("user", "assistant")
    before = await count(turns[:1], [_TEXT])
    once = await count(turns, [_TEXT, _TEXT], continue_final_message=True, add_generation_prompt=False)
    twice = await count(turns, [_TEXT, f"{_TEXT} {_TEXT}"], continue_final_message=True, add_generation_prompt=False)
    text = twice - once  # tokens
    counts_text_and_template = 0 < text < before - 1
    return bool(once) and counts_text_and_template and once - before == text


async def continues_completions(generate: Generate) -> bool:
    """By the text: generated in one piece it is the same as in two, the space between the pieces included."""

    async def complete(prompt: str, **fields: int) -> str:
        answer = await generate(Operation.COMPLETION, {"prompt": prompt, **_ONE, **fields})
        choice: Any = orjson.loads(answer.body)["choices"][0] if answer else {}
        return str(choice.get("text") or "")

    whole = await complete(_TEXT, max_tokens=8)
    end = whole.find(" ", 1)
    if end < 0:
        return False
    rest = await complete(_TEXT + whole[:end])
    return rest.startswith(" ") and whole[end:].startswith(rest)

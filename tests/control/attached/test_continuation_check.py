"""Whether a server continues an answer, over templates and tokenizers of many kinds."""

from collections.abc import Awaitable, Callable

import orjson
import pytest

from berth.canonical import EngineResponse, Json, Operation, Usage
from berth.control.attached.continuation_check import continued_operations, continues_chats, continues_completions

pytestmark = pytest.mark.anyio
Count = Callable[[str], int]

TOKENIZERS: dict[str, Count] = {
    "words": lambda text: len(text.split()),
    "bytes": len,
    "pieces": lambda text: (len(text) + 2) // 3,
    "words and a first token": lambda text: len(text.split()) + 1,
}


def open_turn(messages: list[Json], count: Count) -> int:
    """The last turn is the assistant's, and is not ended."""
    total = sum(3 + count(turn["content"]) + 2 for turn in messages)
    return total - 2 if messages[-1]["role"] == "assistant" else total + 3


def closed_turn(messages: list[Json], count: Count) -> int:
    return sum(3 + count(turn["content"]) + 2 for turn in messages) + 3


def shortest_template(messages: list[Json], count: Count) -> int:
    """One token for each side of a turn."""
    return sum(1 + count(turn["content"]) + 1 for turn in messages) + 1


def no_template(messages: list[Json], count: Count) -> int:
    return sum(count(turn["content"]) for turn in messages)


def ignored_turn(messages: list[Json], count: Count) -> int:
    return closed_turn([turn for turn in messages if turn["role"] == "user"], count)


def nothing(_: list[Json], count: Count) -> int:
    return count("")


@pytest.mark.parametrize("tokenizer", ["words", "words and a first token"])
async def test_open_turn_is_recognized(tokenizer: str) -> None:
    assert await continues_chats(chats(open_turn, TOKENIZERS[tokenizer])) is (tokenizer == "words")


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("template", [closed_turn, shortest_template, no_template, ignored_turn, nothing])
async def test_no_other_template_is_taken_for_an_open_turn(
    template: Callable[[list[Json], Count], int], tokenizer: str
) -> None:
    assert not await continues_chats(chats(template, TOKENIZERS[tokenizer]))


async def test_server_that_rejects_the_fields_does_not_continue() -> None:
    async def generate(_: Operation, body: Json) -> EngineResponse | None:
        return None if "continue_final_message" in body else answer(tokens=9)

    assert not await continues_chats(generate)


@pytest.mark.parametrize(
    ("whole", "rest", "continues"),
    [
        (" five six", " six", True),
        (" five six", " six seven", False),
        (" five six", "six", False),
        (" five six", "", False),
        (" five", " six", False),
        ("", "", False),
        ("five six", " six", True),
    ],
)
async def test_completion_is_the_same_in_one_piece_and_in_two(whole: str, rest: str, continues: bool) -> None:
    async def generate(_: Operation, body: Json) -> EngineResponse | None:
        return answer(text=whole if body["max_tokens"] > 1 else rest)

    assert await continues_completions(generate) is continues


async def test_what_is_known_is_not_asked() -> None:
    async def generate(operation: Operation, _: Json) -> EngineResponse | None:
        raise AssertionError(f"asked for {operation}")

    known: dict[Operation, bool | None] = {Operation.CHAT: True, Operation.COMPLETION: False}
    assert await continued_operations(generate, known) == ("chat",)


def answer(*, tokens: int = 0, text: str = "") -> EngineResponse:
    return EngineResponse(body=orjson.dumps({"choices": [{"text": text}]}), usage=Usage(prompt_tokens=tokens))


def chats(
    template: Callable[[list[Json], Count], int], count: Count
) -> Callable[[Operation, Json], Awaitable[EngineResponse | None]]:
    async def generate(_: Operation, body: Json) -> EngineResponse | None:
        return answer(tokens=template(body["messages"], count))

    return generate

"""What a request takes from stored responses is bounded, and each of them is read once."""

from collections import Counter
from typing import Any

import orjson
import pytest

from berth.apis.responses.endpoints import OpenaiResponses
from berth.apis.responses.store import StoredResponse
from berth.canonical import Json
from berth.errors import TooLargeError
from tests.fakes.responses import Memory

LONG = "word " * 200


class Counting(Memory):
    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        self.reads[response_id] += 1
        return super().get(owner, response_id)


class Chat:
    def __init__(self, most_bytes: int = 1 << 20) -> None:
        self.store = Counting()
        self.api = OpenaiResponses(self.store, most_bytes=most_bytes)

    def ask(self, value: Any, **fields: Any) -> Json:
        """The response; "answer" is its text."""
        request = self.api.parse(orjson.dumps({"model": "m", "input": value, **fields}))
        self.messages: list[Json] = request.body["messages"]
        self.earlier_bytes = request.earlier_bytes
        message = {"role": "assistant", "content": "answer"}
        answer = self.api.response(request, orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}))
        response: Json = orjson.loads(answer)
        return response


def question_of(response: Json) -> Json:
    """A reference to the input of a response."""
    return {"type": "item_reference", "id": f"msg_{response['id'].removeprefix('resp_')}_i0"}


def answer_of(response: Json) -> Json:
    return {"type": "item_reference", "id": response["output"][0]["id"]}


def test_each_response_is_read_once() -> None:
    chat = Chat()
    first = chat.ask("Hi")

    chat.ask([question_of(first), answer_of(first)] * 20)

    assert chat.store.reads == {first["id"]: 1}
    assert len(chat.messages) == 40


def test_the_last_response_has_the_items_of_those_before_it() -> None:
    chat = Chat()
    turns: list[Json] = []
    references: list[Json] = []
    for _ in range(5):
        turns.append(chat.ask([*references, {"role": "user", "content": "Hi"}]))
        token = turns[-1]["id"].removeprefix("resp_")
        references += [
            {"type": "item_reference", "id": f"msg_{token}_i{len(references)}"},
            answer_of(turns[-1]),
        ]
    chat.store.reads.clear()

    chat.ask(references)

    assert chat.store.reads == {turns[-1]["id"]: 1}
    assert [message["content"] for message in chat.messages] == ["Hi", "answer"] * 5


def test_references_count_as_what_they_stand_for() -> None:
    chat = Chat(most_bytes=20_000)
    first = chat.ask(LONG)
    chat.ask([question_of(first)] * 10)
    assert chat.earlier_bytes > 10 * len(LONG)

    with pytest.raises(TooLargeError, match="BERTH_MAX_BODY"):
        chat.ask([question_of(first)] * 20)


def test_a_conversation_that_is_continued_counts() -> None:
    chat = Chat(most_bytes=10_000)
    response = chat.ask(LONG)
    while chat.earlier_bytes < 7_000:
        response = chat.ask(LONG, previous_response_id=response["id"])

    with pytest.raises(TooLargeError):
        chat.ask(3 * LONG, previous_response_id=response["id"])


def test_what_is_read_counts_even_if_nothing_of_it_is_used() -> None:
    chat = Chat(most_bytes=10_000)
    responses = [chat.ask(LONG) for _ in range(20)]
    missing = [{"type": "item_reference", "id": f"msg_{one['id'].removeprefix('resp_')}_99"} for one in responses]
    with pytest.raises(TooLargeError):
        chat.ask(missing)
    assert chat.store.reads.total() < 12

"""Embeddings of many inputs at a server that takes few at once: parts, and one answer."""

import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.canonical import EngineResponse, InferenceRequest, Operation, Usage
from berth.errors import TooLargeError
from berth.plan import DialectName, Task
from berth.router.forwarding.embedding_batches import joined, parts
from tests.fakes.router import RouterProcess, make_plan, replica, route
from tests.fakes.upstream import FakeUpstream, Request, Step, error_answer, json_answer

MOST = 3


def request(inputs: Any, operation: Operation = Operation.EMBEDDING) -> InferenceRequest:
    return InferenceRequest(operation=operation, model="embed", body={"model": "embed", "input": inputs, "user": "me"})


def split(inputs: Any, most: int = MOST) -> list[Any]:
    return [part.body["input"] for part in parts(request(inputs), most)]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["a", "b", "c", "d"], [["a", "b", "c"], ["d"]]),
        ([[1, 2], [3], [4], [5]], [[[1, 2], [3], [4]], [[5]]]),
        (["a", "b", "c"], [["a", "b", "c"]]),
        ("abcdef", ["abcdef"]),
        ([1, 2, 3, 4, 5], [[1, 2, 3, 4, 5]]),  # one prompt, as tokens
        ([], [[]]),
    ],
)
def test_splits_only_lists_of_inputs(inputs: Any, expected: list[Any]) -> None:
    assert split(inputs) == expected


def test_requests_of_other_operations_are_not_split() -> None:
    assert len(parts(request(list("abcdef"), Operation.CLASSIFY), MOST)) == 1


def test_parts_keep_the_other_fields() -> None:
    assert {part.body["user"] for part in parts(request(list("abcdef")), MOST)} == {"me"}


def answer_of(inputs: list[str]) -> dict[str, Any]:
    """In the wrong order: the index tells which is which."""
    rows = [
        {"object": "embedding", "index": index, "embedding": [float(ord(text[0]))]} for index, text in enumerate(inputs)
    ]
    usage = {"prompt_tokens": len(inputs), "total_tokens": len(inputs)}
    return {"object": "list", "model": "embed", "data": rows[::-1], "usage": usage}


@given(st.integers(1, 40), st.integers(1, 10))
def test_joined_response_equals_a_single_one(count: int, most: int) -> None:
    inputs = [chr(97 + number) for number in range(count)]
    asked = parts(request(inputs), most)
    answers = [
        EngineResponse(body=orjson.dumps(answer_of(one)), usage=Usage(prompt_tokens=len(one)))
        for one in (part.body["input"] for part in asked)
    ]

    whole = joined(answers)

    rows = sorted(orjson.loads(whole.body)["data"], key=lambda row: row["index"])
    assert len(asked) == math.ceil(count / most)
    assert [chr(int(row["embedding"][0])) for row in rows] == inputs
    assert orjson.loads(whole.body)["usage"]["prompt_tokens"] == whole.usage.prompt_tokens == count


@pytest.fixture(scope="module")
def server() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def client(server: FakeUpstream) -> Iterator[openai.OpenAI]:
    run_dir = tempfile.mkdtemp(prefix="br-")
    row = replace(replica("embed-remote", server.url, dialect=DialectName.OPENAI, task=Task.EMBED), batch=MOST)
    router = RouterProcess(make_plan(run_dir, [row], [route("embed", [row.name], task=Task.EMBED)]))
    router.await_answer()
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0, timeout=10) as client:
        yield client
    router.end()
    shutil.rmtree(run_dir)


def strict(asked: Request) -> tuple[Step, ...]:
    """As Text Embeddings Inference refuses too many."""
    inputs = asked.json["input"]
    if len(inputs) > MOST:
        return (error_answer(f"batch size {len(inputs)} > maximum allowed batch size {MOST}", status=422),)
    return (json_answer(answer_of(inputs)),)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_official_client_gets_all_embeddings(client: openai.OpenAI, server: FakeUpstream, encoding: Any) -> None:
    server.forget()
    server.answers_with(strict)

    answer = client.embeddings.create(model="embed", input=list("abcdefgh"), encoding_format=encoding)

    assert [row.index for row in answer.data] == list(range(8))
    if encoding == "float":
        assert [chr(int(row.embedding[0])) for row in answer.data] == list("abcdefgh")
    assert answer.usage.prompt_tokens == 8
    assert [len(one.json["input"]) for one in server.requests] == [3, 3, 2]


def test_failed_part_fails_the_request(client: openai.OpenAI, server: FakeUpstream) -> None:
    server.forget()
    server.answers_once(json_answer(answer_of(list("abc"))))
    server.answers(error_answer("too long", status=400))

    with pytest.raises(openai.BadRequestError, match="too long"):
        client.embeddings.create(model="embed", input=list("abcdef"))


def test_rejects_what_would_be_repeated_too_often() -> None:
    body = {"model": "embed", "input": ["x"] * 3000, "user": "u" * (1 << 17)}
    many = InferenceRequest(operation=Operation.EMBEDDING, model="embed", body=body)

    with pytest.raises(TooLargeError, match="1000 times"):
        parts(many, MOST)
    assert len(parts(many, 10)) == 300

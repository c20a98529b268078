"""JSON that was asked for is JSON of that kind, or an error says that it is not."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import openai
import orjson
import pytest

from berth.canonical import Failure, InferenceRequest, Json, Operation
from berth.dialects.registry import DIALECTS
from berth.plan import DialectName
from berth.router.forwarding.output_schema import OutputSchema, ValidatingDecoder, expectation
from berth.sse import DONE
from tests.fakes.router_fixture import RouterFixture
from tests.fakes.upstream import LAST_CHUNK, chat_answer, chat_frame, chat_stream, chunk, stream_head

SCHEMA: Json = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
GOOD, BAD, PROSE = '{"age": 3}', '{"age": "three"}', "She is three."
HELLO: Any = [{"role": "user", "content": "How old is she?"}]


def expected(operation: Operation = Operation.CHAT, **body: Any) -> OutputSchema:
    found = expectation(InferenceRequest(operation=operation, model="m", body=body))
    assert found is not None
    return found


SPELLINGS: list[Json] = [
    {"response_format": FORMAT},
    {"guided_json": SCHEMA},
    {"guided_json": orjson.dumps(SCHEMA).decode()},
    {"structured_outputs": {"json": SCHEMA}},
    {"json_schema": orjson.dumps(SCHEMA).decode()},
]


@pytest.mark.parametrize("body", SPELLINGS)
@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETION])
def test_finds_schema_in_every_spelling(operation: Operation, body: Json) -> None:
    wanted = expected(operation, **body)

    assert wanted.problem(GOOD, "stop") is None
    assert "age" in (wanted.problem(BAD, "stop") or "")
    assert "not JSON" in (wanted.problem(PROSE, "stop") or "")


@pytest.mark.parametrize(
    "body", [{"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}]
)
def test_json_object_accepts_any_object(body: Json) -> None:
    wanted = expected(**body)

    assert wanted.problem(BAD, "stop") is None
    assert wanted.problem("[]", "stop") == "output is JSON, but not an object"
    assert "not JSON" in (wanted.problem(None, "stop") or "")


@pytest.mark.parametrize("text", ['{"a": "x\\ud99c"}', '{"a": "\ud99c"}', '{"a": 1e400}'])
def test_what_other_readers_accept_is_json(text: str) -> None:
    assert expected(response_format={"type": "json_object"}).problem(text, "stop") is None
    assert expected(**SPELLINGS[0]).problem(text, "stop") is None  # its schema is not checked


def test_nan_is_no_json() -> None:
    assert "not JSON" in (expected(response_format={"type": "json_object"}).problem('{"a": NaN}', "stop") or "")


@pytest.mark.parametrize("reason", ["length", "tool_calls", "content_filter"])
def test_incomplete_responses_are_not_checked(reason: str) -> None:
    assert expected(response_format=FORMAT).problem('{"age"', reason) is None


@pytest.mark.parametrize("text", ["Every morning", "```json", "<think>"])
def test_text_that_was_cut_must_begin_like_json(text: str) -> None:
    assert "does not begin like JSON" in (expected(response_format=FORMAT).problem(text, "length") or "")
    assert expected(response_format=FORMAT).problem("", "length") is None
    assert expected(response_format=FORMAT).problem(text, "tool_calls") is None


def test_checks_large_schemas() -> None:
    large = {**SCHEMA, "description": "x" * 20_000}

    assert "age" in (expected(guided_json=large).problem(BAD, "stop") or "")


UNCHECKED: list[Json] = [
    {},
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "structural_tag"}},
    {"guided_regex": "a+"},
    {"guided_json": SCHEMA, "guided_regex": "a"},
    {"guided_json": {"type": "no such type"}},
    {"guided_json": {"$ref": "http://127.0.0.1:9/schema.json"}},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": "text"}}},
]


@pytest.mark.parametrize("body", UNCHECKED)
def test_other_formats_are_not_checked(body: Json) -> None:
    assert expectation(InferenceRequest(operation=Operation.CHAT, model="m", body=body)) is None


def test_embeddings_have_no_text() -> None:
    request = InferenceRequest(operation=Operation.EMBEDDING, model="m", body={"response_format": FORMAT})

    assert expectation(request) is None


def client_of(router_fixture: RouterFixture) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{router_fixture.url}/v1", api_key="none", max_retries=0, timeout=10)


def test_falls_back_when_output_violates_the_schema(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(chat_answer(PROSE))
    router_fixture.second.answers(chat_answer(GOOD))

    with client_of(router_fixture) as client:
        raw = client.chat.completions.with_raw_response.create(model="chat", messages=HELLO, response_format=FORMAT)

    assert raw.parse().choices[0].message.content == GOOD
    assert raw.headers["x-berth-attempts"] == "2"


def test_error_when_all_outputs_violate_the_schema(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(chat_answer(PROSE))
    router_fixture.second.answers(chat_answer(BAD))

    with client_of(router_fixture) as client, pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(model="chat", messages=HELLO, response_format=FORMAT)

    assert refused.value.status_code == 502
    assert "not JSON" in refused.value.message
    assert "age" in refused.value.message


def read_to_its_end(router_fixture: RouterFixture, read: Callable[[openai.OpenAI], None], *, fits: bool) -> None:
    """The stream is whole where its text fits, and ends with an error where it does not."""
    refused = pytest.raises(openai.APIError, match="does not match the JSON schema")
    with client_of(router_fixture) as client, nullcontext() if fits else refused:
        read(client)


@pytest.mark.parametrize(("pieces", "fits"), [(['{"age"', ": 3}"], True), (['{"age"', ': "3"}'], False)])
def test_stream_that_violates_the_schema_ends_with_an_error(
    router_fixture: RouterFixture, pieces: list[str], *, fits: bool
) -> None:
    router_fixture.first.answers(*chat_stream(*pieces))
    texts: list[str] = []

    def read(client: openai.OpenAI) -> None:
        stream = client.chat.completions.create(model="chat", messages=HELLO, response_format=FORMAT, stream=True)
        texts.extend(choice.delta.content or "" for part in stream for choice in part.choices)

    read_to_its_end(router_fixture, read, fits=fits)
    assert "".join(pieces).startswith("".join(texts))
    assert not fits or texts


def test_schema_violation_does_not_eject_the_replica(router_fixture: RouterFixture) -> None:
    """Others want prose of it."""
    router_fixture.first.answers(chat_answer(PROSE))
    router_fixture.second.answers(chat_answer(GOOD))

    with client_of(router_fixture) as client:
        for _ in range(20):
            client.chat.completions.create(model="chat", messages=HELLO, response_format=FORMAT)
        raw = client.chat.completions.with_raw_response.create(model="chat", messages=HELLO)

    assert raw.headers["x-berth-attempts"] == "1"
    assert raw.parse().choices[0].message.content == PROSE


def piece(index: int, text: str = "", finish: str | None = None) -> bytes:
    """A frame of a stream with several choices."""
    return chat_frame(text, finish=finish).replace(b'"index":0', b'"index":%d' % index)


def judged(n: int = 2, **body: Any) -> ValidatingDecoder:
    request = InferenceRequest(operation=Operation.CHAT, model="m", body={"n": n, "response_format": FORMAT, **body})
    wanted = expectation(request)
    assert wanted is not None
    return ValidatingDecoder(DIALECTS[DialectName.VLLM].stream(request, "m"), wanted)


def test_each_choice_is_checked_at_its_end() -> None:
    stream = judged()
    good = [piece(0, '{"age"'), piece(1, '{"age": '), piece(0, ": 3}"), piece(0, finish="stop"), b": waiting\n\n"]

    assert all(isinstance(stream.frame(frame), bytes) for frame in good)
    failure = stream.frame(piece(1, '"three"}', "stop"))

    assert isinstance(failure, Failure)
    assert failure.code == "schema_not_kept"
    assert "age" in failure.message


def test_valid_choices_pass_with_their_usage() -> None:
    stream = judged(n=3)
    stream.keep()
    frames = [piece(0, GOOD, "stop"), piece(1, '{"age"', "length"), piece(2, PROSE, "tool_calls"), DONE]

    shown = [stream.frame(frame) for frame in frames]
    assert shown[3] == DONE
    assert [b'"model":"m"' in frame for frame in shown[:3] if isinstance(frame, bytes)] == [True] * 3
    assert stream.end() is None
    assert stream.transcript().id == "chatcmpl-1"


def test_engine_error_takes_precedence() -> None:
    stream = judged()

    assert isinstance(failure := stream.frame(b'data: {"error":{"message":"boom","code":500}}\n\n'), Failure)
    assert failure.message == "boom"
    assert stream.end() is not None


def two(second: str) -> list[bytes]:
    """The frames of a stream with two choices, the first of which is good."""
    return [piece(0, GOOD), piece(1, second[:3]), piece(0, finish="stop"), piece(1, second[3:], "stop"), DONE]


@pytest.mark.parametrize(("second", "fits"), [(GOOD, True), (BAD, False)])
def test_stream_with_an_invalid_choice_ends_with_an_error(
    router_fixture: RouterFixture, second: str, *, fits: bool
) -> None:
    *begin, end, done = two(second)
    first_ended = threading.Event()
    router_fixture.first.answers(stream_head(), *map(chunk, begin), first_ended, chunk(end), chunk(done), LAST_CHUNK)
    texts, reasons = ["", ""], ["", ""]

    def read(client: openai.OpenAI) -> None:
        for part in client.chat.completions.create(
            model="solo", messages=HELLO, response_format=FORMAT, stream=True, n=2
        ):
            for choice in part.choices:
                texts[choice.index] += choice.delta.content or ""
                reasons[choice.index] += choice.finish_reason or ""
            if reasons[0]:
                first_ended.set()

    read_to_its_end(router_fixture, read, fits=fits)
    assert (texts[0], reasons[0]) == (GOOD, "stop")
    assert (texts[1], reasons[1]) == ((GOOD, "stop") if fits else (BAD[:3], ""))


def test_falls_back_for_all_choices_before_the_first_byte(router_fixture: RouterFixture) -> None:
    router_fixture.first.answers(stream_head(), chunk(b"".join(two(BAD))), LAST_CHUNK)
    router_fixture.second.answers(stream_head(), chunk(b"".join(two(GOOD))), LAST_CHUNK)
    texts = ["", ""]

    with client_of(router_fixture) as client:
        for part in client.chat.completions.create(
            model="chat", messages=HELLO, response_format=FORMAT, stream=True, n=2
        ):
            for choice in part.choices:
                texts[choice.index] += choice.delta.content or ""

    assert texts == [GOOD, GOOD]
    assert "chat-vllm" not in router_fixture.router.left_alone()

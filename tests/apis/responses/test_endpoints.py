"""The endpoint with its stored responses, and recorded streams as the client gets them."""

import os
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from openai.types.responses.input_token_count_response import InputTokenCountResponse

from berth import json_text
from berth.apis.responses.endpoints import OpenaiInputTokens, OpenaiResponses
from berth.apis.responses.request import ResponsesRequest
from berth.canonical import InferenceRequest, Json, Operation
from berth.dialects.base import Dialect
from berth.dialects.sglang import SglangDialect
from berth.dialects.trtllm import TrtllmDialect
from berth.dialects.vllm import VllmDialect
from berth.errors import InvalidRequestError, ModelNotFoundError
from tests.fakes.recordings import recording
from tests.fakes.responses import WEATHER, Memory, api, check_order, check_response, encode, events, frame, stream_of

GOLDEN = Path(__file__).parent / "golden"
MINE = {b"authorization": b"Bearer mine"}


class Chat:
    """A client that continues from response to response, with given output."""

    def __init__(self) -> None:
        self.store = Memory()
        self.api = api(self.store)

    def ask(self, fields: Json, message: Json, headers: dict[bytes, bytes] = MINE) -> tuple[list[Json], Json]:
        """The messages that the engine gets, and the response."""
        request = self.api.parse(orjson.dumps({"model": "m", **fields}), headers)
        choice = {"message": {"role": "assistant", **message}, "finish_reason": "stop"}
        answer = self.api.response(request, orjson.dumps({"choices": [choice]}))
        return request.body["messages"], check_response(orjson.loads(answer))


def test_continues_a_conversation_from_its_last_response() -> None:
    chat = Chat()
    _, first = chat.ask({"input": "I am Ada.", "instructions": "Be kind."}, {"content": "Hello Ada."})
    _, second = chat.ask({"input": "Who?", "previous_response_id": first["id"]}, {"content": "Ada."})
    messages, third = chat.ask({"input": "Sure?", "previous_response_id": second["id"]}, {"content": "Yes."})

    assert [message["content"] for message in messages] == ["I am Ada.", "Hello Ada.", "Who?", "Ada.", "Sure?"]
    assert third["previous_response_id"] == second["id"]


def test_instructions_are_not_carried_over() -> None:
    chat = Chat()
    _, first = chat.ask({"input": "Hi", "instructions": "Be kind."}, {"content": "Hello."})
    messages, _ = chat.ask(
        {"input": "x", "previous_response_id": first["id"], "instructions": "Stop."}, {"content": ""}
    )

    assert messages[0] == {"role": "system", "content": "Stop."}
    assert len(messages) == 4


def test_matches_a_tools_output_to_its_call() -> None:
    chat = Chat()
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    _, first = chat.ask({"input": "Weather?", "tools": [WEATHER]}, {"reasoning": "Hm.", "tool_calls": [call]})
    output = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "Sun."}
    messages, _ = chat.ask({"input": [output], "previous_response_id": first["id"]}, {"content": "Sun."})

    assert messages[1:] == [
        {"role": "assistant", "content": None, "reasoning": "Hm.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Sun."},
    ]


def test_resolves_item_references() -> None:
    """Some clients do with every item that was kept, without naming the response."""
    chat = Chat()
    _, first = chat.ask({"input": "Hi"}, {"reasoning": "Hm.", "content": "Hello."})
    question = chat.store.kept["Bearer mine", first["id"]].input[0]["id"]
    references = [
        {"type": "item_reference", "id": name} for name in (question, *(one["id"] for one in first["output"]))
    ]
    messages, _ = chat.ask({"input": [*references, {"role": "user", "content": "So?"}]}, {"content": ""})

    assert messages == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello.", "reasoning": "Hm."},
        {"role": "user", "content": "So?"},
    ]


@pytest.mark.parametrize("headers", [{}, {b"authorization": b"Bearer other"}])
def test_response_of_another_owner_is_not_found(headers: dict[bytes, bytes]) -> None:
    chat = Chat()
    _, first = chat.ask({"input": "Hi"}, {"content": "Hello."})

    with pytest.raises(InvalidRequestError, match="not found") as refused:
        chat.ask({"input": "x", "previous_response_id": first["id"]}, {}, headers)
    assert refused.value.code == "previous_response_not_found"
    with pytest.raises(InvalidRequestError, match="not in a stored response"):
        chat.ask({"input": [{"type": "item_reference", "id": first["output"][0]["id"]}]}, {}, headers)


def test_store_false_stores_nothing() -> None:
    chat = Chat()
    chat.ask({"input": "Hi", "store": False}, {"content": "Hello."})

    assert chat.store.kept == {}


def test_rejects_a_failed_previous_response() -> None:
    chat = Chat()
    request = chat.api.parse(b'{"model": "m", "input": "Hi", "stream": true}', MINE)
    chat.api.stream(request).fail(ModelNotFoundError("gone"))
    assert isinstance(request, ResponsesRequest)

    with pytest.raises(InvalidRequestError, match="failed"):
        chat.ask({"input": "x", "previous_response_id": request.id}, {})


def test_continues_from_a_streamed_response() -> None:
    chat = Chat()
    request = chat.api.parse(b'{"model": "m", "input": "Hi", "stream": true}', MINE)
    shown = chat.api.stream(request).feed(b"".join(stream_of(frame({"content": "Hello."}))))
    response = events(shown)[-1]["response"]
    messages, _ = chat.ask({"input": "x", "previous_response_id": response["id"]}, {"content": ""})

    assert [message["content"] for message in messages] == ["Hi", "Hello.", "x"]


def test_ids_are_random_and_created_at_is_now() -> None:
    requests = [OpenaiResponses(Memory()).parse(b'{"model": "m", "input": "Hello"}') for _ in range(2)]
    first, second = (request for request in requests if isinstance(request, ResponsesRequest))

    assert first.id != second.id
    assert len(first.token) == 48
    assert abs(first.created_at - time.time()) < 60


def test_counts_tokens_of_prompt_fields() -> None:
    tokens = OpenaiInputTokens(Memory())
    fields: Json = {"model": "m", "input": "Hi", "instructions": "You.", "tools": [WEATHER], "temperature": 1}
    request = tokens.parse(orjson.dumps({**fields, "stream": True, "zzz": 1}))

    assert isinstance(request, InferenceRequest)
    assert (request.operation, request.stream, request.ignored) == (Operation.TOKENIZE, False, ("zzz",))
    assert request.body.keys() == {"model", "messages", "tools"}
    answer = tokens.response(request, b'{"count": 42, "tokens": null, "max_model_len": 100}')
    assert InputTokenCountResponse.model_validate_json(answer, strict=True).input_tokens == 42


def test_counts_tokens_of_the_full_conversation() -> None:
    chat = Chat()
    _, first = chat.ask({"input": "Hi"}, {"content": "Hello."})
    body = orjson.dumps({"model": "m", "previous_response_id": first["id"]})

    assert len(OpenaiInputTokens(chat.store).parse(body, MINE).body["messages"]) == 2


@pytest.mark.parametrize("field", ["parameters", "schema", "metadata"])
def test_nesting_that_is_accepted_can_be_written(field: str) -> None:
    """A request that is nested as deeply as JSON may be is refused at once, or answered and kept."""
    answers = 0
    for depth in range(230, 256):
        deep: Any = {}
        for _ in range(depth):
            deep = {"a": deep}
        places: dict[str, Json] = {
            "parameters": {"tools": [{"type": "namespace", "name": "n", "tools": [{**WEATHER, "parameters": deep}]}]},
            "schema": {"text": {"format": {"type": "json_schema", "name": "a", "schema": deep}}},
            "metadata": {"client_metadata": deep, "tools": [{"type": "mcp", "x": deep}]},
        }
        try:
            body = orjson.dumps({"model": "m", "input": "Hi", **places[field]})
            request = api().parse(body)
        except (orjson.JSONEncodeError, InvalidRequestError):
            continue
        assert isinstance(request, ResponsesRequest)
        store = Memory()
        json_text.dumps(request.body)
        encode(request, stream_of(frame({"content": "Hello."})), store)
        orjson.dumps({"response": store.kept["", request.id].response})
        answers += 1
    assert answers


def test_errors_have_openais_envelope() -> None:
    error = ModelNotFoundError("The model 'x' does not exist here.", param="model")

    assert api().status(error) == 404
    assert orjson.loads(api().error(error))["error"]["code"] == "model_not_found"


DIALECTS: dict[str, Dialect] = {"vllm": VllmDialect(), "sglang": SglangDialect(), "trtllm": TrtllmDialect()}
RECORDED = (
    *("vllm/base/chat_stream_usage", "vllm/base/chat_stream_unicode", "vllm/base/reason_stream"),
    *("vllm/base/tools_auto_stream", "vllm/base/tools_required_stream", "vllm/base/chat_logprobs_stream"),
    *("sglang/base/chat_stream_usage", "sglang/reasoning/reas_stream", "sglang/tools/tool_strict_required_stream"),
    *("sglang/base/chat_logprobs_stream", "sglang/tools/tool_loose_required_stream"),
    *("trtllm/base/chat_stream", "trtllm/base/reasoning_stream", "trtllm/base/tools_stream"),
)


def golden(name: str) -> Any:
    """The client's stream for what an engine once wrote."""
    seen = recording(name)
    fields: Json = {"model": "tiny", "input": "Hello", "stream": True}
    if "logprobs" in name:
        fields["top_logprobs"] = 2
    if tools := seen.body.get("tools"):
        fields["tools"] = [{"type": "function", **tool["function"]} for tool in tools]
    ours = api()
    request = ours.parse(orjson.dumps(fields))
    decoder = DIALECTS[name.partition("/")[0]].stream(request, "tiny")
    shown = ours.stream(request).feed(decoder.feed(seen.answer))
    assert decoder.failure is None
    assert decoder.end() is None
    return shown


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_streams_match_golden_files(name: str) -> None:
    """`GOLDEN=write` rewrites the files; review them before you commit."""
    shown = golden(name)
    check_order(events(shown))
    file = GOLDEN / f"{name.replace('/', '-')}.txt"
    if os.environ.get("GOLDEN") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(shown)

    assert shown.decode() == file.read_text(encoding="utf-8")

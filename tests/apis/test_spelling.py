"""What a model or a client wrote arrives as it was, in every API, streamed and whole: text and arguments of calls."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth import json_text
from berth.apis.anthropic.endpoints import AnthropicMessages
from berth.apis.base import ApiFormat
from berth.apis.ollama.chat import OllamaChat
from berth.apis.openai.chat import OpenaiChat
from berth.apis.responses.endpoints import OpenaiResponses
from berth.apis.tgi.endpoints import TgiGenerate
from berth.apis.translated_stream import escape_line_ends
from berth.canonical import EngineResponse, InferenceRequest, Json, Operation
from berth.dialects.registry import DIALECTS
from berth.plan import DialectName
from berth.sse import DONE, frame
from tests.fakes.responses import Memory
from tests.test_json_text import OBJECTS, ODD_TEXT, SPACES

DIALECT = DIALECTS[DialectName.VLLM]
HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
ASCII = st.booleans()  # an engine that escapes all but ASCII, or one that does not


def anthropic(**fields: Any) -> InferenceRequest:
    return parsed(AnthropicMessages(), {**HELLO, "max_tokens": 9, **fields})


def parsed(api: ApiFormat, document: Json) -> InferenceRequest:
    request = api.parse(json.dumps(document).encode())
    assert isinstance(request, InferenceRequest)
    return request


REQUESTS: dict[str, Callable[[bool], tuple[ApiFormat, InferenceRequest]]] = {
    "openai": lambda stream: (OpenaiChat(), parsed(OpenaiChat(), {**HELLO, "stream": stream})),
    "anthropic": lambda stream: (AnthropicMessages(), anthropic(stream=stream)),
    "ollama": lambda stream: (OllamaChat(), parsed(OllamaChat(), {**HELLO, "stream": stream})),
    "responses": lambda stream: (
        api := OpenaiResponses(Memory()),
        parsed(api, {"model": "m", "input": "Hi", "stream": stream}),
    ),
    "tgi": lambda stream: (
        TgiGenerate(stream=stream),
        parsed(TgiGenerate(stream=stream), {"model": "m", "inputs": "Hi"}),
    ),
}
CALLING = [name for name in REQUESTS if name != "tgi"]


def whole(name: str, message: Json, *, ascii_only: bool) -> bytes:
    """The client's response, through dialect and API."""
    api, request = REQUESTS[name](False)
    shape = {"message": message} if request.operation is Operation.CHAT else {"text": message["content"]}
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    document = {"id": "x", "model": "other", "choices": [{"index": 0, **shape, "finish_reason": finish}]}
    answer = DIALECT.answer(request, "m", 200, encoded(document, ascii_only=ascii_only))
    assert isinstance(answer, EngineResponse)
    return api.response(request, answer.body)


def streamed(name: str, deltas: Iterable[Json], *, ascii_only: bool) -> bytes:
    api, request = REQUESTS[name](True)
    decoder, encoder = DIALECT.stream(request, "m"), api.stream(request)
    chat = request.operation is Operation.CHAT
    choices: list[Json] = [{"delta": delta} if chat else {"text": delta["content"]} for delta in deltas]
    called = any("tool_calls" in (choice.get("delta") or {}) for choice in choices)
    last: Json = {"delta": {}} if chat else {"text": ""}
    found = b""
    for choice in [*choices, {**last, "finish_reason": "tool_calls" if called else "stop"}]:
        document = {"id": "x", "model": "other", "choices": [{"index": 0, "finish_reason": None, **choice}]}
        found += encoder.feed(decoder.feed(frame(encoded(document, ascii_only=ascii_only))))
    assert decoder.failure is None
    return found + encoder.feed(decoder.feed(DONE))


def encoded(document: Json, *, ascii_only: bool) -> bytes:
    """As an engine in Python writes it. Lone surrogates are escapes in any case."""
    text = json.dumps(document, ensure_ascii=ascii_only)
    return "".join(f"\\u{ord(char):04x}" if "\ud800" <= char <= "\udfff" else char for char in text).encode()


def documents(stream: bytes) -> list[Json]:
    """The events of a stream of any API."""
    lines = [line.removeprefix(b"data:") for line in stream.split(b"\n") if line.startswith((b"data:", b"{"))]
    return [json.loads(line) for line in lines if line.strip() != b"[DONE]"]


def said(event: Json) -> str:
    """The new text in an event of any API."""
    for place in (("choices", 0, "delta", "content"), ("delta", "text"), ("message", "content"), ("token", "text")):
        value: Any = event
        key: Any
        for key in place:
            value = value[key] if isinstance(value, list) else value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str):
            return value
    return event["delta"] if event.get("type") == "response.output_text.delta" else ""


def text_of(name: str, response: Json) -> str:
    match name:
        case "openai":
            text = response["choices"][0]["message"]["content"]
        case "anthropic":
            text = response["content"][0]["text"]
        case "ollama":
            text = response["message"]["content"]
        case "responses":
            text = response["output"][0]["content"][0]["text"]
        case _:
            text = response["generated_text"]
    return str(text)


def same(text: str) -> str:
    """Python joins the two halves of a pair only where it reads them together."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@pytest.mark.parametrize("name", REQUESTS)
@given(st.lists(ODD_TEXT.map(lambda text: f"a{text}b"), min_size=1, max_size=4), ASCII)
def test_text_arrives_as_the_model_wrote_it(name: str, pieces: list[str], ascii_only: bool) -> None:
    text = "".join(pieces)

    response = json.loads(whole(name, {"role": "assistant", "content": text}, ascii_only=ascii_only))
    stream = streamed(name, [{"content": piece} for piece in pieces], ascii_only=ascii_only)

    assert same(text_of(name, response)) == same(text)
    assert same("".join(map(said, documents(stream)))) == same(text)


def call(arguments: str, **more: Any) -> Json:
    return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}, **more}


def given_arguments(name: str, response: bytes) -> str:
    """The arguments in a whole response: of an API with objects, the bytes of the object."""
    if name in ("anthropic", "ollama"):
        key = '"input":' if name == "anthropic" else '"arguments":'
        text = response.decode()
        start = text.index(key) + len(key)
        return text[start : json.JSONDecoder().raw_decode(text, start)[1]]
    document = json.loads(response)
    found = (
        document["choices"][0]["message"]["tool_calls"][0]["function"] if name == "openai" else document["output"][0]
    )
    return str(found["arguments"])


def streamed_arguments(name: str, stream: bytes) -> str:
    events = documents(stream)
    match name:
        case "openai":
            calls = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", ())]
            return "".join(call["function"].get("arguments") or "" for call in calls)
        case "anthropic":
            return "".join(event.get("delta", {}).get("partial_json", "") for event in events)
        case "ollama":
            return given_arguments(name, next(line for line in stream.split(b"\n") if b'"arguments"' in line))
        case _:
            kind = "response.function_call_arguments.delta"
            return "".join(event["delta"] for event in events if event["type"] == kind)


@pytest.mark.parametrize("name", CALLING)
@given(OBJECTS, SPACES, st.integers(1, 5), ASCII)
def test_arguments_arrive_as_the_model_wrote_them(
    name: str, arguments: str, space: str, size: int, ascii_only: bool
) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [call(arguments + space)]}
    pieces = [arguments[begin : begin + size] for begin in range(0, len(arguments), size)] + [space]
    begun: Json = {"tool_calls": [call("", index=0)]}
    deltas = [begun, *({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces)]

    response = whole(name, message, ascii_only=ascii_only)
    stream = streamed(name, deltas, ascii_only=ascii_only)

    one_line = arguments.replace("\n", " ")  # white space between tokens: within strings it would be an escape
    expected = escape_line_ends(one_line.encode()).decode() if name == "ollama" else arguments
    assert given_arguments(name, response).strip() == arguments
    assert streamed_arguments(name, stream).strip() == expected
    assert b"max_tokens" not in stream.replace(b'"max_tokens":', b"")
    if name == "anthropic":
        assert json.loads(response)["stop_reason"] == documents(stream)[-2]["delta"]["stop_reason"] == "tool_use"


def _sent(api: ApiFormat, body: str) -> Json:
    request = api.parse(body.encode())
    assert isinstance(request, InferenceRequest)
    found: Json = json.loads(DIALECT.request(request, "m").body)
    return found


ANTHROPIC_CALL = """{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"},{"role":"assistant",
 "content":[{"type":"tool_use","id":"a","name":"f","input":%s}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"a",
 "content":"x"}]}],"tools":[]}"""
OLLAMA_CALL = """{"model":"m","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"",
 "tool_calls":[{"function":{"name":"f","arguments":%s}}]},{"role":"tool","content":"x"}]}"""


@pytest.mark.parametrize(
    ("api", "template"),
    [(AnthropicMessages(), ANTHROPIC_CALL), (OllamaChat(), OLLAMA_CALL)],
    ids=["anthropic", "ollama"],
)
@given(OBJECTS)
def test_objects_arrive_as_the_client_wrote_them(api: ApiFormat, template: str, arguments: str) -> None:
    sent = _sent(api, template % arguments)["messages"][1]["tool_calls"][0]["function"]["arguments"]

    if "\\ud" not in arguments:  # a body with a lone surrogate is read in another way
        assert sent == arguments
    assert json.loads(sent) == json.loads(json_text.dumps(json_text.read_odd(arguments.encode())))


HI = '{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],'
NESTED = HI + '"tools":[{"type":"function","function":{"name":"f","parameters":%s}}]}'


def _parameters(body: Json) -> Any:
    return body["tools"][0]["function"]["parameters"]


def _response_schema(body: Json) -> Any:
    return body["response_format"]["json_schema"]["schema"]


SCHEMA_PLACES: dict[str, tuple[ApiFormat, str, Callable[[Json], Any]]] = {
    "openai": (OpenaiChat(), NESTED, _parameters),
    "ollama": (OllamaChat(), NESTED, _parameters),
    "anthropic": (AnthropicMessages(), HI + '"tools":[{"name":"f","input_schema":%s}]}', _parameters),
    "responses": (
        OpenaiResponses(Memory()),
        '{"model":"m","input":"Hi","tools":[{"type":"function","name":"f","parameters":%s}]}',
        _parameters,
    ),
    "response_format": (
        OpenaiChat(),
        HI + '"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":%s}}}',
        _response_schema,
    ),
    "output_config": (
        AnthropicMessages(),
        HI + '"output_config":{"format":{"type":"json_schema","schema":%s}}}',
        _response_schema,
    ),
}


@pytest.mark.parametrize("place", SCHEMA_PLACES)
@given(OBJECTS)
def test_schemas_keep_digits_and_order(place: str, schema: str) -> None:
    api, template, find = SCHEMA_PLACES[place]
    request = api.parse((template % schema).encode())
    assert isinstance(request, InferenceRequest)
    sent = DIALECT.request(request, "m").body

    def exact(text: str | bytes) -> Any:
        return json.loads(text, parse_float=str, parse_int=str)

    assert find(exact(sent)) == exact(json_text.dumps(json_text.read_odd(schema.encode())))

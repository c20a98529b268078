"""One conversation in every API's form: what an engine gets is in the order that strict chat templates accept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.apis.anthropic.endpoints import AnthropicCountTokens, AnthropicMessages
from berth.apis.ollama.chat import OllamaChat
from berth.apis.openai.chat import OpenaiChat
from berth.apis.tokenize import Tokenize
from berth.canonical import InferenceRequest, Json
from berth.dialects.registry import DIALECTS
from berth.plan import DialectName
from tests.dialects.strict_template import problem_of, texts_of
from tests.fakes.responses import api

Kind = Literal["instructions", "user", "assistant", "call", "result"]


KINDS: Final[Sequence[Kind]] = ("instructions", "user", "assistant", "call", "result")


@dataclass(frozen=True)
class Event:
    kind: Kind
    text: str = ""  # of a call: its id
    call: str = ""  # of a result


def openai(event: Event) -> Json:
    match event.kind:
        case "instructions":
            return {"role": "developer", "content": event.text}
        case "call":
            call = {"id": event.text, "type": "function", "function": {"name": "f", "arguments": "{}"}}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "result":
            return {"role": "tool", "tool_call_id": event.call, "content": event.text}
        case role:
            return {"role": role, "content": event.text}


def anthropic(event: Event) -> Json:
    match event.kind:
        case "instructions":
            return {"role": "system", "content": event.text}
        case "call":
            block = {"type": "tool_use", "id": event.text, "name": "f", "input": {}}
            return {"role": "assistant", "content": [block]}
        case "result":
            return {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": event.call, "content": event.text}],
            }
        case role:
            return {"role": role, "content": event.text}


def ollama(event: Event) -> Json:
    message = openai(event)
    match event.kind:
        case "instructions":
            message["role"] = "system"
        case "call":
            message |= {"content": "", "tool_calls": [{"id": event.text, "function": {"name": "f", "arguments": {}}}]}
    return message


def responses(event: Event) -> Json:
    match event.kind:
        case "call":
            return {"type": "function_call", "call_id": event.text, "name": "f", "arguments": "{}"}
        case "result":
            return {"type": "function_call_output", "call_id": event.call, "output": event.text}
        case _:
            return {"type": "message", **openai(event)}


def chat(message: Callable[[Event], Json]) -> Callable[[Sequence[Event]], Json]:
    """The request of an API that writes each event as one message."""
    return lambda events: {"model": "m", "max_tokens": 9, "messages": [message(event) for event in events]}


# The others have no chats, or calls without ids.
CHATTING: Final = [
    dialect
    for dialect in DIALECTS.values()
    if dialect.name not in (DialectName.TEI, DialectName.INFINITY, DialectName.OLLAMA)
]
Parse = Callable[[bytes], object]
APIS: Final[dict[str, tuple[Callable[[Sequence[Event]], Json], Parse]]] = {
    "openai": (chat(openai), OpenaiChat().parse),
    "anthropic": (chat(anthropic), AnthropicMessages().parse),
    "ollama": (chat(ollama), OllamaChat().parse),
    "responses": (lambda events: {"model": "m", "input": list(map(responses, events))}, lambda body: api().parse(body)),
    "tokenize": (chat(openai), Tokenize().parse),
    "anthropic tokens": (chat(anthropic), AnthropicCountTokens().parse),
}


@st.composite
def conversations(draw: st.DrawFn) -> list[Event]:
    """Results of earlier calls, anywhere after them; empty turns; instructions anywhere. The user has the last word."""
    events: list[Event] = []
    waiting: list[str] = []
    for number in range(draw(st.integers(0, 10))):
        kind: Kind = draw(st.sampled_from(KINDS))
        empty = kind in ("user", "assistant") and draw(st.booleans())
        text = "" if empty else f"{kind}{number}"
        if kind == "result":
            if not waiting:
                continue
            events.append(Event("result", text, waiting.pop(draw(st.integers(0, len(waiting) - 1)))))
        else:
            events.append(Event(kind, text))
        if kind == "call":
            waiting.append(text)
    return [*events, *(Event("result", "late", call) for call in waiting), Event("user", "last")]


@pytest.mark.parametrize("name", APIS)
@given(events=conversations())
def test_every_engine_gets_turns_in_order(name: str, events: list[Event]) -> None:
    write, parse = APIS[name]
    request = parse(orjson.dumps(write(events)))
    assert isinstance(request, InferenceRequest)
    written = [event.text for event in events if event.text and event.kind != "call"]
    for dialect in CHATTING:
        if name == "tokenize" and dialect.name not in (DialectName.VLLM, DialectName.SGLANG):
            continue  # the others count tokens only
        messages = orjson.loads(dialect.request(request, "m").body)["messages"]

        assert problem_of(messages) is None, messages
        sent = "".join(texts_of(messages))
        assert all(text in sent for text in written)
        assert len(sent) == sum(map(len, written))  # once each


EMPTY: Final[Sequence[object]] = ("", [], [{"type": "text", "text": ""}], [{"type": "redacted_thinking", "data": "x"}])


@pytest.mark.parametrize("content", EMPTY, ids=["text", "list", "block", "only redacted thinking"])
def test_neighbours_of_an_empty_turn_are_joined(content: object) -> None:
    document = chat(anthropic)([Event("user", "A"), Event("assistant"), Event("user", "B")])
    document["messages"][1]["content"] = content
    request = AnthropicMessages().parse(orjson.dumps(document))
    assert isinstance(request, InferenceRequest)
    for dialect in CHATTING:
        messages = orjson.loads(dialect.request(request, "m").body)["messages"]

        assert messages == [{"role": "user", "content": "A\n\nB"}]

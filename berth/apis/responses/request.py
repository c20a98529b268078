"""Requests of the Responses API: their fields, and the chat that an engine gets."""

import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec import field

from berth.apis.base import Headers
from berth.apis.openai.fields import (
    BOOLEAN,
    OBJECT,
    SAMPLING,
    TEXT,
    Rule,
    check_fields,
    integer,
    is_text_or_texts,
    mismatch,
    number,
    one_of,
    token_limit,
)
from berth.apis.responses.earlier import Earlier
from berth.apis.responses.items import read_items, with_ids
from berth.apis.responses.messages import messages_of
from berth.apis.responses.store import ResponseStore
from berth.apis.responses.tools import Origin, Tools, read_tools
from berth.apis.responses.typed_items import configured
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError

# Fields of vLLM and SGLang, forwarded although OpenAI's Responses API does not have them.
_EXTRA_SAMPLING: Final = ("frequency_penalty", "presence_penalty", "logit_bias", "seed", "stop")
_ENGINE_FIELDS: Final = frozenset(
    {
        *_EXTRA_SAMPLING,
        *("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "bad_words"),
        *("skip_special_tokens", "include_stop_str_in_output", "no_stop_trim", "allowed_token_ids"),
        *("chat_template_kwargs", "structured_outputs", "guided_json", "guided_regex", "guided_choice"),
        *("guided_grammar", "regex", "ebnf", "cache_salt"),
    }
)
# text.format of type json_schema: its fields, their types, and the types in words
_SCHEMA_FIELDS: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "name": ((str,), "a string"),
    "schema": ((dict,), "an object"),
    "description": ((str, type(None)), "a string"),
    "strict": ((bool, type(None)), "true or false"),
}
_SUMMARIES: Final = ("auto", "concise", "detailed")
_CODEX: Final = re.compile(rb"codex_\w+/(\d{1,6})\.(\d{1,6})")
RULES: Final[dict[str, Rule]] = {
    "background": BOOLEAN,
    "include": Rule(
        holds=lambda value: isinstance(value, list) and is_text_or_texts(value), expected="a list of strings"
    ),
    "input": Rule(holds=lambda value: isinstance(value, str | list), expected="a string or a list of items"),
    "instructions": TEXT,
    "max_output_tokens": token_limit(1),
    "metadata": Rule(
        holds=lambda value: isinstance(value, dict) and all(isinstance(text, str) for text in value.values()),
        expected="an object of strings",
    ),
    "parallel_tool_calls": BOOLEAN,
    "previous_response_id": TEXT,
    "reasoning": OBJECT,
    "store": BOOLEAN,
    "stream": BOOLEAN,
    "stream_options": OBJECT,
    "temperature": number(0.0, 2.0),
    "text": OBJECT,
    "tools": Rule(holds=lambda value: isinstance(value, list), expected="a list of tools"),
    "top_logprobs": integer(0, 20),
    "top_p": number(0.0, 1.0),
    "truncation": one_of("auto", "disabled"),
    "user": TEXT,
    "chat_template_kwargs": OBJECT,
    **{name: SAMPLING[name] for name in (*_EXTRA_SAMPLING, "min_tokens")},
}
# Fields that cannot be ignored, because they change the response -> what to do instead
_UNSUPPORTED_CODE: Final = "unsupported_parameter"
_UNSUPPORTED: Final = {
    "background": "Omit it, and use 'stream': true for long responses.",
    "conversation": "Berth stores responses, not conversations: use 'previous_response_id', or send all items.",
    "prompt": "Berth stores no prompt templates: send 'instructions' and 'input'.",
}
# The levels of today's models: three and none.
_EFFORTS: Final = {
    **{name: name for name in ("none", "low", "medium", "high")},
    "minimal": "low",
    "xhigh": "high",
    "max": "high",
}
_USED: Final = (RULES.keys() | _ENGINE_FIELDS | {"model", "tool_choice"}) - {"stream_options"}
_DEFAULTS: Final = {"service_tier": ("auto", "default")}  # values without effect
_SECTIONS: Final = {"text": ("format",), "reasoning": ("effort", "summary")}  # the fields of each that are used
_INCLUDED: Final = ("message.output_text.logprobs", "reasoning.encrypted_content", "message.input_image.image_url")
_HEADER_NAME: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)
_MAX_IGNORED: Final = 32
_ITEM_ID: Final = re.compile(r"[a-z]+_([0-9a-f]+)_i?[0-9]+", re.ASCII)


class ResponsesRequest(InferenceRequest, frozen=True, kw_only=True):
    """A chat, and what its response needs besides."""

    id: str  # of the response
    created_at: int  # Unix seconds
    owner: str  # of the response
    settings: Json = field(default_factory=dict)  # the fields that the response repeats
    conversation: list[Json] = field(default_factory=list)  # the items before the output, earlier turns included
    store: bool = True
    # Of functions that are not plain functions for the client.
    origins: Mapping[str, Origin] = field(default_factory=dict)
    summarises: bool = False  # the client requested a reasoning summary: most show no other reasoning
    seals_reasoning: bool = False  # the client sends the reasoning back with the next turn
    knows_incomplete: bool = True  # False: the client accepts no other end than `response.completed`

    @property
    def token(self) -> str:
        """Part of the ids of all its items."""
        return self.id.removeprefix("resp_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Parses requests. `new_token` returns unguessable hexadecimal digits, `clock` Unix seconds."""

    store: ResponseStore
    new_token: Callable[[], str]
    clock: Callable[[], float] = time.time
    most_bytes: int = sys.maxsize  # of the body, and of all that it refers to

    def read(self, document: Json, headers: Headers, operation: Operation, *, size: int) -> ResponsesRequest:
        """InvalidRequestError for an invalid request, and for one that no engine supports. `size`: of the body."""
        check_fields(document, RULES, required=("model",))
        for name, instead in _UNSUPPORTED.items():
            if document.get(name) not in (None, False):
                raise InvalidRequestError(f"{name!r} is not supported. {instead}", param=name, code=_UNSUPPORTED_CODE)
        owner = self.store.owner(headers)
        earlier = Earlier(self.store, owner, body_bytes=size, most_bytes=self.most_bytes)
        conversation, ignored_items = self._conversation(document, earlier)
        document = configured(document, conversation)
        tools = read_tools(document, conversation)
        messages = messages_of(document.get("instructions"), conversation)
        if not messages:
            raise InvalidRequestError("The field 'input' is missing.", param="input", code="missing_required_parameter")
        text_format = _text_format(document)
        settings = _settings(document, tools, text_format)
        # Codex before 0.169 takes an incomplete stream for a broken one and retries. Later versions show the reason.
        codex = _CODEX.match(headers.get(b"user-agent", b""))
        token = self.new_token()
        stream = bool(document.get("stream")) and operation is Operation.CHAT
        return ResponsesRequest(
            operation=operation,
            model=document["model"],
            body={"model": document["model"], "messages": messages, **_chat_fields(document, tools, text_format)},
            stream=stream,
            include_usage=stream,
            original=document,
            ignored=_ignored(document, (*tools.ignored, *ignored_items)),
            earlier_bytes=earlier.taken_bytes,
            id=f"resp_{token}",
            created_at=int(self.clock()),
            owner=owner,
            settings=settings,
            conversation=with_ids(conversation, token),
            store=settings["store"],
            origins=tools.origins,
            summarises=settings["reasoning"]["summary"] is not None,
            seals_reasoning="reasoning.encrypted_content" in (document.get("include") or ()),
            knows_incomplete=codex is None or (int(codex[1]), int(codex[2])) >= (0, 169),
        )

    def _conversation(self, document: Json, earlier: Earlier) -> tuple[list[Json], tuple[str, ...]]:
        """The items of earlier turns and of `input`, and those of `input` without effect."""
        response_id, value = document.get("previous_response_id"), document.get("input") or []
        before = [] if response_id is None else earlier.continued(response_id)
        if isinstance(value, list):
            ids = [item["id"] for item in value if isinstance(item, dict) and isinstance(item.get("id"), str)]
            named = [(item_id, match) for item_id in ids if (match := _ITEM_ID.fullmatch(item_id))]
            earlier.look_up((item_id, f"resp_{match[1]}") for item_id, match in reversed(named))
        items, ignored = read_items(value, earlier.item)
        return [*before, *items], ignored


def _chat_fields(document: Json, tools: Tools, text_format: Json) -> Json:
    """The fields of the chat besides model and messages."""
    names = (*_ENGINE_FIELDS, "temperature", "top_p", "user")
    body = {name: document[name] for name in names if document.get(name) is not None}
    body |= tools.chat
    if document.get("max_output_tokens") is not None:
        body["max_completion_tokens"] = document["max_output_tokens"]
    if tools.chat and document.get("parallel_tool_calls") is False:
        body["parallel_tool_calls"] = False
    if document.get("stream"):
        body["stream"] = True
    effort = (document.get("reasoning") or {}).get("effort")
    if effort is not None:
        if not isinstance(effort, str) or effort not in _EFFORTS:
            raise mismatch("reasoning.effort", f"one of {', '.join(_EFFORTS)}", effort)
        body["reasoning_effort"] = _EFFORTS[effort]
    if text_format["type"] == "json_schema":  # one level deeper in a chat
        schema = {name: value for name, value in text_format.items() if name != "type"}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif text_format["type"] != "text":
        body["response_format"] = text_format
    top_logprobs = document.get("top_logprobs") or 0
    if top_logprobs or "message.output_text.logprobs" in (document.get("include") or ()):
        body |= {"logprobs": True, "top_logprobs": top_logprobs}
    return body


def _text_format(document: Json) -> Json:
    """`text.format`, checked."""
    text_format = (document.get("text") or {}).get("format")
    if text_format is None:
        return {"type": "text"}
    kind = text_format.get("type") if isinstance(text_format, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise mismatch("text.format", "an object of type 'text', 'json_object' or 'json_schema'", text_format)
    if kind == "json_object" and (schema := text_format.get("schema", text_format.get("value"))) is not None:
        # the form of llama.cpp and others, whose schema must not be lost
        text_format = {"type": "json_schema", "name": "answer", "schema": schema}
    elif kind != "json_schema":
        return {"type": kind}
    for name, (types, expected) in _SCHEMA_FIELDS.items():
        if not isinstance(text_format.get(name), types):
            raise mismatch(f"text.format.{name}", expected, text_format.get(name))
    return {
        "type": "json_schema",
        **{name: text_format[name] for name in _SCHEMA_FIELDS if text_format.get(name) is not None},
    }


def _settings(document: Json, tools: Tools, text_format: Json) -> Json:
    """The fields of a request that its response repeats. null where the client left it to the engine."""
    reasoning = document.get("reasoning") or {}
    summary = reasoning.get("summary")
    if summary is not None and summary not in _SUMMARIES:
        raise mismatch("reasoning.summary", f"one of {', '.join(_SUMMARIES)}", summary)
    parallel = document.get("parallel_tool_calls")
    return {
        "background": False,
        "instructions": document.get("instructions"),
        "max_output_tokens": document.get("max_output_tokens"),
        "metadata": document.get("metadata") or {},
        "parallel_tool_calls": True if parallel is None else parallel,
        "previous_response_id": document.get("previous_response_id"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": summary},
        "store": document.get("store") is not False,
        "temperature": document.get("temperature"),
        "text": {"format": text_format},
        "tool_choice": tools.choice,
        "tools": tools.response,
        "top_logprobs": document.get("top_logprobs") or 0,
        "top_p": document.get("top_p"),
        "truncation": "disabled",
        "user": document.get("user"),
    }


def _ignored(document: Json, more: tuple[str, ...]) -> tuple[str, ...]:
    """The fields without effect, as names that a header can hold."""
    names: list[str] = []
    for name, value in document.items():
        known = name in _USED or name in _UNSUPPORTED
        if value is not None and not known and value not in _DEFAULTS.get(name, ()):
            names.append(name)
    for section, used in _SECTIONS.items():
        fields = document.get(section) or {}
        names += [f"{section}.{name}" for name, value in fields.items() if value and name not in used]
    if document.get("truncation") == "auto":
        names.append("truncation")
    names += [f"include.{name}" for name in document.get("include") or () if name not in _INCLUDED]
    unique = dict.fromkeys(name for name in (*names, *more) if _HEADER_NAME.fullmatch(name))
    return tuple(unique)[:_MAX_IGNORED]

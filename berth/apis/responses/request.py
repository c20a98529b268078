"""A Responses request: its fields, and the chat that it is for an engine."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

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
    number,
    one_of,
    shown,
)
from berth.apis.responses.items import read_items, with_ids
from berth.apis.responses.messages import messages_of
from berth.apis.responses.store import ResponseStore, StoredResponse
from berth.apis.responses.tools import Origin, Tools, read_tools
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError

# Fields of vLLM's and SGLang's that are none of OpenAI's Responses and pass all the same.
_SAMPLING_TOO: Final = ("frequency_penalty", "presence_penalty", "logit_bias", "seed", "stop")
_ENGINES: Final = frozenset(
    {
        *_SAMPLING_TOO,
        *("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "bad_words"),
        *("skip_special_tokens", "include_stop_str_in_output", "no_stop_trim", "allowed_token_ids"),
        *("chat_template_kwargs", "structured_outputs", "guided_json", "guided_regex", "guided_choice"),
        *("guided_grammar", "regex", "ebnf", "cache_salt"),
    }
)
_SUMMARIES: Final = ("auto", "concise", "detailed")
_CODEX: Final = re.compile(rb"codex_\w+/(\d{1,6})\.(\d{1,6})")
RULES: Final[dict[str, Rule]] = {
    "background": BOOLEAN,
    "include": Rule(
        holds=lambda value: isinstance(value, list) and is_text_or_texts(value), expected="a list of strings"
    ),
    "input": Rule(holds=lambda value: isinstance(value, str | list), expected="a string or a list of items"),
    "instructions": TEXT,
    "max_output_tokens": integer(1),
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
    **{name: SAMPLING[name] for name in _SAMPLING_TOO},
}
# Without them the answer would be another one. field -> what to do instead
_REFUSED: Final = {
    "background": "Berth answers while the client waits: leave it out, and stream long answers.",
    "conversation": "Berth keeps responses, no conversations: use 'previous_response_id', or send all items.",
    "prompt": "Berth keeps no prompt templates: send 'instructions' and 'input'.",
}
# As models that can be had know them: three levels, and none.
_EFFORTS: Final = {
    **{name: name for name in ("none", "low", "medium", "high")},
    "minimal": "low",
    "xhigh": "high",
    "max": "high",
}
_USED: Final = (RULES.keys() | _ENGINES | {"model", "tool_choice"}) - {"stream_options"}
_DEFAULTS: Final = {"service_tier": ("auto", "default")}  # values that ask for nothing
_INCLUDED: Final = ("message.output_text.logprobs", "reasoning.encrypted_content", "message.input_image.image_url")
_HEADER_WORD: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)
_MOST_IGNORED: Final = 32
_ITEM_ID: Final = re.compile(r"[a-z]+_([0-9a-f]+)_i?[0-9]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesRequest(InferenceRequest):
    """A chat, and what its response must show besides."""

    id: str  # of the response
    created_at: int  # Unix seconds
    owner: str  # whose the response will be
    settings: Json = field(default_factory=dict)  # what a response repeats of its request
    conversation: list[Json] = field(default_factory=list)  # the items before the answer, earlier turns included
    store: bool = True
    origins: Mapping[str, Origin] = field(default_factory=dict)  # of functions that are other tools for the client
    summarises: bool = False  # the client asked for a summary of the reasoning: most show nothing else of it
    seals_reasoning: bool = False  # the client wants to carry the reasoning from turn to turn
    knows_incomplete: bool = True  # False: its client takes no end but `response.completed` for one

    @property
    def token(self) -> str:
        """What the ids of all its items hold."""
        return self.id.removeprefix("resp_")


def _knows_incomplete(agent: bytes) -> bool:
    """Codex before 0.169 takes such a stream for a broken one, and asks again; later ones show why it ended."""
    codex = _CODEX.match(agent)
    return codex is None or (int(codex[1]), int(codex[2])) >= (0, 169)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads requests. `new_token`: hexadecimal digits that nobody guesses; `clock`: Unix seconds."""

    store: ResponseStore
    new_token: Callable[[], str]
    clock: Callable[[], float] = time.time

    def read(self, document: Json, headers: Headers, operation: Operation) -> ResponsesRequest:
        """InvalidRequestError for what no engine can answer, or not as it was meant."""
        check_fields(document, RULES, required=("model",))
        _refuse(document)
        owner = self.store.owner(headers)
        earlier = self._earlier(document, owner)
        items, ignored_items = read_items(document.get("input") or [], lambda name: self._item(owner, earlier, name))
        conversation = [*(earlier.items if earlier else ()), *items]
        messages = messages_of(document.get("instructions"), conversation)
        if not messages:
            raise InvalidRequestError("The field 'input' is missing.", param="input", code="missing_required_parameter")
        tools = read_tools(document)
        token = self.new_token()
        stream = bool(document.get("stream")) and operation is Operation.CHAT
        return ResponsesRequest(
            operation=operation,
            model=document["model"],
            body={"model": document["model"], "messages": messages, **_chat_fields(document, tools)},
            stream=stream,
            include_usage=stream,
            original=document,
            ignored=_ignored(document, (*tools.ignored, *ignored_items)),
            id=f"resp_{token}",
            created_at=int(self.clock()),
            owner=owner,
            settings=_settings(document, tools),
            conversation=with_ids(conversation, token),
            store=document.get("store") is not False,
            origins=tools.origins,
            summarises=_summary(document) is not None,
            seals_reasoning="reasoning.encrypted_content" in (document.get("include") or ()),
            knows_incomplete=_knows_incomplete(headers.get(b"user-agent", b"")),
        )

    def _earlier(self, document: Json, owner: str) -> StoredResponse | None:
        name = document.get("previous_response_id")
        if name is None:
            return None
        stored = self.store.get(owner, name)
        if stored is None:
            raise InvalidRequestError(
                f"Previous response with id {shown(name)} not found ('previous_response_id'). Berth keeps the newest "
                "responses for a while, and none of requests with 'store': false. Send all items as 'input' instead.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        if stored.response["status"] == "failed":
            raise InvalidRequestError(
                f"The previous response {shown(name)} failed: its answer is not whole, and cannot be gone on from.",
                param="previous_response_id",
            )
        return stored

    def _item(self, owner: str, earlier: StoredResponse | None, name: str) -> Json | None:
        """The item of that id: of the conversation that goes on, or of the response in whose output it was."""
        found = _item_in(earlier, name)
        if found is None and (hit := _ITEM_ID.fullmatch(name)):
            found = _item_in(self.store.get(owner, f"resp_{hit[1]}"), name)
        return found


def _item_in(stored: StoredResponse | None, name: str) -> Json | None:
    return next((item for item in stored.items if item.get("id") == name), None) if stored else None


def _refuse(document: Json) -> None:
    for name, instead in _REFUSED.items():
        if document.get(name) not in (None, False):
            raise InvalidRequestError(f"{name!r} is not supported. {instead}", param=name, code="unsupported_parameter")


def _chat_fields(document: Json, tools: Tools) -> Json:
    """The chat's fields beside model and messages."""
    body = {name: document[name] for name in _ENGINES if document.get(name) is not None}
    body |= {name: document[name] for name in ("temperature", "top_p", "user") if document.get(name) is not None}
    body |= tools.chat
    if document.get("max_output_tokens") is not None:
        body["max_completion_tokens"] = document["max_output_tokens"]
    if tools.chat and document.get("parallel_tool_calls") is False:
        body["parallel_tool_calls"] = False
    if document.get("stream"):
        body["stream"] = True
    if (effort := _effort(document)) is not None:
        body["reasoning_effort"] = effort
    if (wanted := _format(document))["type"] != "text":
        body["response_format"] = _response_format(wanted)
    tops = document.get("top_logprobs")
    if tops or "message.output_text.logprobs" in (document.get("include") or ()):
        body |= {"logprobs": True, "top_logprobs": tops or 0}
    return body


def _effort(document: Json) -> str | None:
    effort = (document.get("reasoning") or {}).get("effort")
    if effort is None:
        return None
    if not isinstance(effort, str) or effort not in _EFFORTS:
        raise InvalidRequestError(
            f"'reasoning.effort' must be one of {', '.join(_EFFORTS)}, not {shown(effort)}.", param="reasoning.effort"
        )
    return _EFFORTS[effort]


def _summary(document: Json) -> str | None:
    wanted = (document.get("reasoning") or {}).get("summary")
    if wanted is not None and wanted not in _SUMMARIES:
        raise InvalidRequestError(
            f"'reasoning.summary' must be one of {', '.join(_SUMMARIES)}, not {shown(wanted)}.",
            param="reasoning.summary",
        )
    return wanted if isinstance(wanted, str) else None


def _format(document: Json) -> Json:
    """`text.format`, checked."""
    wanted = (document.get("text") or {}).get("format")
    if wanted is None:
        return {"type": "text"}
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise InvalidRequestError(
            f"'text.format' must be an object of type 'text', 'json_object' or 'json_schema', not {shown(wanted)}.",
            param="text.format",
        )
    if kind != "json_schema":
        return {"type": kind}
    checks: dict[str, tuple[tuple[type, ...], str]] = {
        "name": ((str,), "a string"),
        "schema": ((dict,), "an object"),
        "description": ((str, type(None)), "a string"),
        "strict": ((bool, type(None)), "true or false"),
    }
    for name, (types, expected) in checks.items():
        if not isinstance(wanted.get(name), types):
            raise InvalidRequestError(
                f"'text.format.{name}' must be {expected}, not {shown(wanted.get(name))}.", param=f"text.format.{name}"
            )
    return {"type": kind, **{name: wanted[name] for name in checks if wanted.get(name) is not None}}


def _response_format(wanted: Json) -> Json:
    """A chat has the schema one level deeper."""
    if wanted["type"] != "json_schema":
        return wanted
    return {"type": "json_schema", "json_schema": {name: wanted[name] for name in wanted if name != "type"}}


def _settings(document: Json, tools: Tools) -> Json:
    """Null where the request left it to the engine."""
    reasoning = document.get("reasoning") or {}
    parallel = document.get("parallel_tool_calls")
    return {
        "background": False,
        "instructions": document.get("instructions"),
        "max_output_tokens": document.get("max_output_tokens"),
        "metadata": document.get("metadata") or {},
        "parallel_tool_calls": True if parallel is None else parallel,
        "previous_response_id": document.get("previous_response_id"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": _summary(document)},
        "store": document.get("store") is not False,
        "temperature": document.get("temperature"),
        "text": {"format": _format(document)},
        "tool_choice": tools.choice,
        "tools": tools.shown,
        "top_logprobs": document.get("top_logprobs") or 0,
        "top_p": document.get("top_p"),
        "truncation": "disabled",
        "user": document.get("user"),
    }


def _ignored(document: Json, more: tuple[str, ...]) -> tuple[str, ...]:
    """What has no effect, in words that a header can hold."""
    names = [
        name
        for name, value in document.items()
        if value is not None and name not in _USED and name not in _REFUSED and value not in _DEFAULTS.get(name, ())
    ]
    names += [f"text.{name}" for name, value in (document.get("text") or {}).items() if value and name != "format"]
    reasoning = document.get("reasoning") or {}
    names += [f"reasoning.{name}" for name, value in reasoning.items() if name not in ("effort", "summary") and value]
    names += ["truncation"] if document.get("truncation") == "auto" else []
    names += [f"include.{name}" for name in document.get("include") or () if name not in _INCLUDED]
    words = dict.fromkeys(name for name in (*names, *more) if _HEADER_WORD.fullmatch(name))
    return tuple(words)[:_MOST_IGNORED]

"""OpenAI's chat completions: POST /v1/chat/completions."""

from typing import Any

from berth.apis.base import NO_HEADERS, Headers
from berth.apis.openai.fields import (
    BOOLEAN,
    OBJECT,
    RESPONSE_FORMAT,
    SAMPLING,
    TEXT,
    Rule,
    check_fields,
    integer,
    mismatch,
    read_object,
    request_of,
    token_limit,
)
from berth.apis.openai.passthrough import OpenaiEndpoint
from berth.apis.openai.response_format import canonical_format
from berth.canonical import CHAT, InferenceRequest, Json
from berth.errors import InvalidRequestError

# Parts of OpenAI's messages that no engine reads -> what to do instead. Engines judge all others: they have their own.
REFUSED_PARTS = {"file": "Send its text, or its pages as 'image_url'."}
ROLES = ("developer", "system", "user", "assistant", "tool", "function")

RULES: dict[str, Rule] = {
    **SAMPLING,
    "logprobs": BOOLEAN,
    "max_completion_tokens": token_limit(1),
    "max_tokens": token_limit(1),
    "messages": Rule(holds=lambda value: isinstance(value, list) and bool(value), expected="a list of messages"),
    "parallel_tool_calls": BOOLEAN,
    "reasoning_effort": TEXT,
    "response_format": RESPONSE_FORMAT,
    "tool_choice": Rule(
        holds=lambda value: value in ("none", "auto", "required") or isinstance(value, dict),
        expected="'none', 'auto', 'required' or an object that names a function",
    ),
    "tools": Rule(holds=lambda value: isinstance(value, list), expected="a list of tools"),
    "top_logprobs": integer(0, 20),
    "chat_template_kwargs": OBJECT,
}


class OpenaiChat(OpenaiEndpoint):
    operation = CHAT
    native = True

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:
        document = read_object(body)
        check_fields(document, RULES, required=("model", "messages"))
        check_messages(document)
        choice = document.get("tool_choice")
        if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
            document |= allowed_fields(document["tools"], choice.get("allowed_tools"))
        if document.get("response_format") is not None:
            document["response_format"] = canonical_format(document["response_format"])
        return request_of(CHAT, document)


def allowed_fields(tools: list[Json], allowed: Any) -> Json:
    """`tools` and `tool_choice` for a choice among some of the tools, which no engine knows."""
    mode, listed = (allowed.get("mode"), allowed.get("tools")) if isinstance(allowed, dict) else (None, None)
    if mode not in ("auto", "required") or not isinstance(listed, list) or not all(map(_has_function_name, listed)):
        expected = "an object with a 'mode', 'auto' or 'required', and a list of 'tools' that name functions"
        raise mismatch("tool_choice.allowed_tools", expected, allowed)
    names = {tool["function"]["name"] for tool in listed}
    kept = [tool for tool in tools if tool["function"]["name"] in names]
    if len({tool["function"]["name"] for tool in kept}) < len(names) or (mode == "required" and not kept):
        raise mismatch("tool_choice.allowed_tools", "a choice among 'tools'", allowed)
    return {"tools": kept, "tool_choice": mode}


def check_messages(body: Json) -> None:
    """InvalidRequestError for invalid messages, tools or combinations. The types of fields were checked before."""
    for old, new in (("functions", "tools"), ("function_call", "tool_choice")):
        if body.get(old):
            raise InvalidRequestError(f"{old!r} is no longer supported: use {new!r}.", param=old)
    if body.get("top_logprobs") and not body.get("logprobs"):
        raise InvalidRequestError("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    if body.get("tool_choice") not in (None, "none", "auto") and not body.get("tools"):
        raise InvalidRequestError("'tool_choice' needs 'tools'.", param="tool_choice")
    for place, message in enumerate(body["messages"]):
        _check_message(message, f"messages.{place}")
    for place, tool in enumerate(body.get("tools") or ()):
        if not _has_function_name(tool):
            expected = "an object like {'type': 'function', 'function': {'name': ...}}"
            raise mismatch(f"tools.{place}", expected, tool)
        if type(schema := tool["function"].get("parameters")) is not dict and schema is not None:
            raise mismatch(f"tools.{place}.function.parameters", "a JSON schema, which is an object", schema)


def _check_message(message: Any, param: str) -> None:
    if not isinstance(message, dict):
        raise mismatch(param, "an object", message)
    role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
    if role not in ROLES:
        raise mismatch(f"{param}.role", f"one of {', '.join(ROLES)}", role)
    if isinstance(content, list):
        for place, part in enumerate(content):
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                raise mismatch(f"{param}.content.{place}", "an object with a 'type'", part)
            if advice := REFUSED_PARTS.get(part["type"]):
                message = f"'{param}.content.{place}' is of type {part['type']!r}, which engines cannot read. {advice}"
                raise InvalidRequestError(message, param=f"{param}.content.{place}", code="unsupported_parameter")
    elif not isinstance(content, str) and (content is not None or role not in ("assistant", "function")):
        raise mismatch(f"{param}.content", "a string or a list of parts", content)
    if calls is not None:
        _check_tool_calls(calls, f"{param}.tool_calls")


def _check_tool_calls(calls: Any, param: str) -> None:
    if not isinstance(calls, list):
        raise mismatch(param, "a list", calls)
    for place, call in enumerate(calls):
        if not _has_function_name(call):
            raise mismatch(f"{param}.{place}", "an object that names a function", call)
        arguments = call["function"].get("arguments", "")
        if not isinstance(arguments, str):
            raise mismatch(f"{param}.{place}.function.arguments", "a string of JSON", arguments)


def _has_function_name(value: Any) -> bool:
    """As tools and tool calls do."""
    function = value.get("function") if isinstance(value, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)

"""OpenAI's chat completions: POST /v1/chat/completions."""

from typing import Any

from berth.apis.base import NO_HEADERS, Headers
from berth.apis.openai.fields import (
    BOOLEAN,
    OBJECT,
    SAMPLING,
    TEXT,
    Rule,
    check_fields,
    integer,
    read_object,
    request_of,
    shown,
)
from berth.apis.openai.passthrough import OpenaiAnswers
from berth.canonical import InferenceRequest, Json, Operation
from berth.errors import InvalidRequestError

ROLES = ("developer", "system", "user", "assistant", "tool", "function")

RULES: dict[str, Rule] = {
    **SAMPLING,
    "logprobs": BOOLEAN,
    "max_completion_tokens": integer(0),
    "messages": Rule(holds=lambda value: isinstance(value, list) and bool(value), expected="a list of messages"),
    "parallel_tool_calls": BOOLEAN,
    "reasoning_effort": TEXT,
    "response_format": Rule(
        holds=lambda value: isinstance(value, dict) and isinstance(value.get("type"), str),
        expected="an object with a 'type'",
    ),
    "tool_choice": Rule(
        holds=lambda value: value in ("none", "auto", "required") or isinstance(value, dict),
        expected="'none', 'auto', 'required' or an object that names a function",
    ),
    "tools": Rule(holds=lambda value: isinstance(value, list), expected="a list of tools"),
    "top_logprobs": integer(0, 20),
    "chat_template_kwargs": OBJECT,
}


class OpenaiChat(OpenaiAnswers):
    operation = Operation.CHAT
    native = True

    def parse(self, body: bytes, headers: Headers = NO_HEADERS) -> InferenceRequest:  # noqa: ARG002 - ApiFormat's
        document = read_object(body)
        check_fields(document, RULES, required=("model", "messages"))
        check_messages(document)
        document.update(_schema_of_tgi(document))
        return request_of(Operation.CHAT, document)


def _schema_of_tgi(document: Json) -> Json:
    """OpenAI's `response_format` where the request has TGI's, {"type": "json_object", "value": SCHEMA}: Hugging Face's
    client asks so on this path too, and engines would pass over the schema.
    """
    wanted = document.get("response_format") or {}
    schema = wanted.get("value")
    if wanted.get("type") not in ("json_object", "json") or not isinstance(schema, dict):
        return {}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def check_messages(body: Json) -> None:
    """InvalidRequestError for messages and tools that are none; fields of a wrong type were found before."""
    _check_combinations(body)
    for place, message in enumerate(body["messages"]):
        _check_message(message, f"messages.{place}")
    for place, tool in enumerate(body.get("tools") or ()):
        _check_tool(tool, f"tools.{place}")


def _check_combinations(body: Json) -> None:
    for old, new in (("functions", "tools"), ("function_call", "tool_choice")):
        if body.get(old):
            raise InvalidRequestError(f"{old!r} is no longer supported: use {new!r}.", param=old)
    if body.get("top_logprobs") and not body.get("logprobs"):
        raise InvalidRequestError("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    if body.get("tool_choice") not in (None, "none", "auto") and not body.get("tools"):
        raise InvalidRequestError("'tool_choice' needs 'tools'.", param="tool_choice")


def _check_message(message: Any, param: str) -> None:
    if not isinstance(message, dict):
        raise InvalidRequestError(f"{param!r} must be an object, not {shown(message)}.", param=param)
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequestError(
            f"The role in {param!r} must be one of {', '.join(ROLES)}, not {shown(role)}.", param=f"{param}.role"
        )
    _check_content(message, f"{param}.content", may_be_absent=role in ("assistant", "function"))
    for place, call in enumerate(_list(message.get("tool_calls"), f"{param}.tool_calls")):
        _check_tool_call(call, f"{param}.tool_calls.{place}")


def _check_content(message: Json, param: str, *, may_be_absent: bool) -> None:
    content = message.get("content")
    if isinstance(content, str) or (content is None and may_be_absent):
        return
    if not isinstance(content, list):
        raise InvalidRequestError(f"{param!r} must be a string or a list of parts, not {shown(content)}.", param=param)
    for place, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise InvalidRequestError(
                f"'{param}.{place}' must be an object with a 'type', not {shown(part)}.", param=f"{param}.{place}"
            )


def _check_tool_call(call: Any, param: str) -> None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequestError(f"{param!r} must name a function, not {shown(call)}.", param=param)
    if not isinstance(function.get("arguments", ""), str):
        raise InvalidRequestError(
            f"'{param}.function.arguments' must be a string with JSON in it, not {shown(function['arguments'])}.",
            param=f"{param}.function.arguments",
        )


def _check_tool(tool: Any, param: str) -> None:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequestError(
            f"{param!r} must be an object like {{'type': 'function', 'function': {{'name': ...}}}}, not {shown(tool)}.",
            param=param,
        )


def _list(value: Any, param: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequestError(f"{param!r} must be a list, not {shown(value)}.", param=param)
    return value

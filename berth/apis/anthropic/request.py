"""The fields of Anthropic's requests, checked and translated into those of OpenAI's chat."""

from typing import Final

from berth.apis.anthropic.content import Conversation, conversation
from berth.apis.anthropic.tools import tool_fields
from berth.apis.openai.fields import BOOLEAN, OBJECT, Rule, check_fields, integer, mismatch, number, token_limit
from berth.canonical import Json
from berth.errors import InvalidRequestError

_TOOLS: Final = Rule(
    holds=lambda value: isinstance(value, list) and all(isinstance(tool, dict) for tool in value),
    expected="a list of tools",
)
# Fields of the prompt, which creating a message and counting its tokens share.
_PROMPT_RULES: Final[dict[str, Rule]] = {
    "messages": Rule(holds=lambda value: isinstance(value, list) and bool(value), expected="a list of messages"),
    "output_config": OBJECT,
    "output_format": OBJECT,
    "system": Rule(holds=lambda value: isinstance(value, str | list), expected="a string or a list of text blocks"),
    "thinking": OBJECT,
    "tool_choice": OBJECT,
    "tools": _TOOLS,
}
_RULES: Final[dict[str, Rule]] = {
    **_PROMPT_RULES,
    "max_tokens": token_limit(1),
    "metadata": OBJECT,
    "stop_sequences": Rule(
        holds=lambda value: isinstance(value, list) and all(isinstance(text, str) and text for text in value),
        expected="a list of non-empty strings",
    ),
    "stream": BOOLEAN,
    "temperature": number(0.0),
    "top_k": integer(0),
    "top_p": number(0.0, 1.0),
}
# Fields without a counterpart in any engine.
_IGNORED: Final = frozenset(
    {
        *("cache_control", "container", "context_management", "diagnostics", "fallbacks", "inference_geo"),
        *("mcp_servers", "service_tier", "speed"),
    }
)
_EFFORTS: Final = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_THINKING: Final = {"enabled": True, "adaptive": True, "disabled": False}


def message_fields(document: Json) -> tuple[Json, tuple[str, ...]]:
    """The canonical body, and the fields without effect. InvalidRequestError for an invalid request."""
    check_fields(document, _RULES, required=("model", "max_tokens", "messages"))
    talk = conversation(document)
    body, ignored = _prompt(document, talk)
    has_tools = document.get("tools") or document.get("tool_choice") or talk.changes_tools
    tools, foreign = tool_fields(document) if has_tools else ({}, ())
    body |= tools
    body |= {name: document[name] for name in ("max_tokens", "temperature", "top_p") if document.get(name) is not None}
    if document.get("top_k"):  # 0 means all tokens, but not to every engine
        body["top_k"] = document["top_k"]
    if document.get("stop_sequences"):
        body["stop"] = document["stop_sequences"]
    if document.get("stream"):
        body["stream"] = True
    user = (document.get("metadata") or {}).get("user_id")
    if isinstance(user, str):
        body["user"] = user
    body |= _response_format(document, prefilled=talk.prefilled)
    return body, tuple(dict.fromkeys((*sorted(_IGNORED & document.keys()), *ignored, *foreign)))


def count_fields(document: Json) -> tuple[Json, tuple[str, ...]]:
    """The same, for counting the tokens of the prompt."""
    check_fields(document, _PROMPT_RULES, required=("model", "messages"))
    body, ignored = _prompt(document, conversation(document))
    tools, foreign = tool_fields(document)
    if "tools" in tools:
        body["tools"] = tools["tools"]
    if tools.get("tool_choice") == "none":  # some engines then leave the tools out of the prompt
        body["tool_choice"] = "none"
    return body, tuple(dict.fromkeys((*ignored, *foreign)))


def _prompt(document: Json, talk: Conversation) -> tuple[Json, list[str]]:
    """Messages, whether the chat template enables reasoning, and its effort. Without a setting of the client, the
    model's default applies; only a prefilled response leaves no place for reasoning.
    """
    body: Json = {"model": document["model"], "messages": talk.messages}
    thinking = document.get("thinking") or {}
    kind = thinking.get("type")
    enabled = _THINKING.get(kind) if isinstance(kind, str) else None
    ignored = sorted(talk.ignored)
    if thinking.get("budget_tokens") is not None:
        ignored.append("thinking.budget_tokens")
    if kind is not None and enabled is None:
        ignored.append("thinking.type")
    if enabled is None and talk.prefilled:
        enabled = False
    if enabled is not None:
        body["chat_template_kwargs"] = {"enable_thinking": enabled}
    effort = (document.get("output_config") or {}).get("effort")
    if effort is not None:
        if not isinstance(effort, str) or effort not in _EFFORTS:
            raise mismatch("output_config.effort", f"one of {', '.join(_EFFORTS)}", effort)
        if enabled is False:
            ignored.append("output_config.effort")
        else:
            body["reasoning_effort"] = _EFFORTS[effort]
    if talk.prefilled:
        body["continue_final_message"] = True
    return body, ignored


def _response_format(document: Json, *, prefilled: bool) -> Json:
    """`output_format` is the beta's name of `output_config.format`."""
    output_format, param = (document.get("output_config") or {}).get("format"), "output_config.format"
    if output_format is None:
        output_format, param = document.get("output_format"), "output_format"
    if output_format is None:
        return {}
    is_schema = isinstance(output_format, dict) and output_format.get("type") == "json_schema"
    schema = output_format.get("schema") if is_schema else None
    if not isinstance(schema, dict):
        raise mismatch(param, "{'type': 'json_schema', 'schema': {...}}", output_format)
    if prefilled:
        raise InvalidRequestError(
            f"{param!r} cannot be combined with a prefilled assistant message at the end of 'messages'.", param=param
        )
    json_schema = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}

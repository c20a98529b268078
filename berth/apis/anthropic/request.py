"""The fields of Anthropic's requests, checked and turned into those of OpenAI's chat."""

import re
from collections.abc import Mapping
from typing import Any, Final

from berth.apis.anthropic.content import Conversation, conversation
from berth.apis.anthropic.tools import tool_fields
from berth.apis.openai.fields import BOOLEAN, OBJECT, Rule, check_fields, integer, number, shown
from berth.canonical import Json
from berth.errors import InvalidRequestError

_TOOLS: Final = Rule(
    holds=lambda value: isinstance(value, list) and all(isinstance(tool, dict) for tool in value),
    expected="a list of tools",
)
# What makes up the prompt: of a message and of counting its tokens alike.
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
    "max_tokens": integer(1),
    "metadata": OBJECT,
    "stop_sequences": Rule(
        holds=lambda value: isinstance(value, list) and all(isinstance(text, str) and text for text in value),
        expected="a list of strings, none of them empty",
    ),
    "stream": BOOLEAN,
    "temperature": number(0.0),
    "top_k": integer(0),
    "top_p": number(0.0, 1.0),
}
# Known, and without a counterpart on any engine.
_IGNORED: Final = frozenset(
    {
        *(
            "cache_control",
            "container",
            "context_management",
            "diagnostics",
            "fallbacks",
            "inference_geo",
            "mcp_servers",
        ),
        *("service_tier", "speed"),
    }
)
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]")
_LONGEST_NAME: Final = 80
_EFFORTS: Final = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_THINKING: Final = {"enabled": True, "adaptive": True, "disabled": False}


def message_fields(document: Json) -> tuple[Json, tuple[str, ...]]:
    """The body for the engine, and the fields that have no effect. InvalidRequestError for what is not Anthropic's."""
    check_fields(document, _RULES, required=("model", "max_tokens", "messages"))
    talk = conversation(document)
    body, ignored = _prompt(document, talk)
    tools, foreign = tool_fields(document)
    body |= tools
    body |= _sampling(document)
    body |= _response_format(document, prefilled=talk.prefilled)
    return body, _names(*sorted(_IGNORED & document.keys()), *ignored, *foreign)


def count_fields(document: Json) -> tuple[Json, tuple[str, ...]]:
    """The same, of what the prompt is made of."""
    check_fields(document, _PROMPT_RULES, required=("model", "messages"))
    body, ignored = _prompt(document, conversation(document))
    tools, foreign = tool_fields(document)
    if "tools" in tools:
        body["tools"] = tools["tools"]
    if tools.get("tool_choice") == "none":  # some engines then leave the tools out of the prompt
        body["tool_choice"] = "none"
    return body, _names(*ignored, *foreign)


def _names(*ignored: str) -> tuple[str, ...]:
    """They stand in a header, and some are the client's words."""
    return tuple(dict.fromkeys(_NO_NAME.sub("?", name)[:_LONGEST_NAME] for name in ignored))


def _prompt(document: Json, talk: Conversation) -> tuple[Json, list[str]]:
    body: Json = {"model": document["model"], "messages": talk.messages}
    thinking, ignored = _thinking(document, prefilled=talk.prefilled)
    body |= thinking
    if talk.prefilled:
        body["continue_final_message"] = True
    return body, [*sorted(talk.ignored), *ignored]


def _sampling(document: Json) -> Json:
    body: Json = {"max_tokens": document["max_tokens"]}
    body |= {name: value for name in ("temperature", "top_p") if (value := document.get(name)) is not None}
    if document.get("top_k"):  # 0 is none, and not every engine says so with a 0
        body["top_k"] = document["top_k"]
    if document.get("stop_sequences"):
        body["stop"] = document["stop_sequences"]
    if document.get("stream"):
        body["stream"] = True
    user = (document.get("metadata") or {}).get("user_id")
    if isinstance(user, str):
        body["user"] = user
    return body


def _thinking(document: Json, *, prefilled: bool) -> tuple[Json, list[str]]:
    """Whether the chat template has the model reason, and how much. Where the client says nothing, the model's own way
    is left alone; only an answer whose beginning is given has no place for reasoning.
    """
    thinking = document.get("thinking") or {}
    kind = thinking.get("type")
    wanted = _THINKING.get(kind) if isinstance(kind, str) else None
    ignored = [f"thinking.{name}" for name in ("budget_tokens",) if thinking.get(name) is not None]
    if kind is not None and wanted is None:
        ignored.append("thinking.type")
    if wanted is None and prefilled:
        wanted = False
    fields: Json = {} if wanted is None else {"chat_template_kwargs": {"enable_thinking": wanted}}
    effort = _effort(document)
    if effort and wanted is not False:
        fields["reasoning_effort"] = effort
    elif effort:
        ignored.append("output_config.effort")
    return fields, ignored


def _effort(document: Json) -> str | None:
    effort = (document.get("output_config") or {}).get("effort")
    if effort is None:
        return None
    if not isinstance(effort, str) or effort not in _EFFORTS:
        raise InvalidRequestError(
            f"'output_config.effort' must be one of {', '.join(_EFFORTS)}, not {shown(effort)}.",
            param="output_config.effort",
        )
    return _EFFORTS[effort]


def _response_format(document: Json, *, prefilled: bool) -> Json:
    """`output_format` is what `output_config.format` was called in the beta."""
    wanted, param = (document.get("output_config") or {}).get("format"), "output_config.format"
    if wanted is None:
        wanted, param = document.get("output_format"), "output_format"
    if wanted is None:
        return {}
    schema = _schema(wanted)
    if schema is None:
        raise InvalidRequestError(
            f"{param!r} must be {{'type': 'json_schema', 'schema': {{...}}}}, not {shown(wanted)}.", param=param
        )
    if prefilled:
        raise InvalidRequestError(
            f"{param!r} is for a whole answer, and the last of 'messages' is the beginning of one.", param=param
        )
    answer = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": answer}}


def _schema(wanted: Any) -> Mapping[str, Any] | None:
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        return None
    schema = wanted.get("schema")
    return schema if isinstance(schema, dict) else None

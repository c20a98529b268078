"""What the dialects share when they parse requests: prompts, chats, tools, reasoning."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from berth.sim import body_validation
from berth.sim.body_validation import InvalidError, Json, RejectionError
from berth.sim.dialect import Route, Setup
from berth.sim.generation import GenerationRequest, Tool
from berth.sim.options import Reasoning
from berth.sim.structured_output import SchemaError, sample
from berth.sim.tokenizer import END, START

_OF_NO_SCHEMA = '"any value"'  # what a model may write where its JSON follows no schema
_COMPLETION_TOKENS = 16  # the default max_tokens of the completions API


class BaseParser(ABC):
    """Parses requests for chat and completion. Each dialect adds its checks and defaults."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._options = setup.options

    def parse_generation(self, route: Route, body: Json, headers: Mapping[str, str]) -> GenerationRequest:
        """InvalidError, RejectionError and, for SGLang, CrashError."""
        body_validation.check_types(body)
        return self.parse_chat(body) if route is Route.CHAT else self.parse_completion(body)

    @abstractmethod
    def parse_chat(self, body: Json) -> GenerationRequest: ...

    @abstractmethod
    def parse_completion(self, body: Json) -> GenerationRequest: ...

    @abstractmethod
    def max_tokens(self, body: Json, prompts: tuple[tuple[int, ...], ...], default: int | None) -> int:
        """The requested number, checked against the context. None as default means the rest of the context."""

    @abstractmethod
    def forced_text(self, body: Json) -> str | None:
        """The text that structured output forces."""

    def fields(self, body: Json, *, chat: bool) -> Json:
        """The fields that chat and completion have in common."""
        return {
            "n": body_validation.integer(body, "n", 1),
            "stop": body_validation.strings(body.get("stop")),
            "ignore_eos": bool(body.get("ignore_eos")),
            "min_tokens": body_validation.integer(body, "min_tokens", 0),
            "stream": bool(body.get("stream")),
            "top_logprobs": top_logprobs(body, chat=chat),
        }

    def _completion_request(self, body: Json, prompts: tuple[tuple[int, ...], ...], **more: Any) -> GenerationRequest:
        texts = tuple(self._setup.tokenizer.decode(prompt) for prompt in prompts)
        return GenerationRequest(
            chat=False,
            prompts=prompts,
            max_tokens=self.max_tokens(body, prompts, _COMPLETION_TOKENS),
            continues=texts,
            echo=texts if body.get("echo") else (),
            forced_text=self.forced_text(body),
            **self.fields(body, chat=False),
            **more,
        )


def chat_token_ids(setup: Setup, messages: list[Json], *, continues: bool = False) -> tuple[int, ...]:
    """The token ids of a rendered chat. With `continues` the last message stays open."""
    encode = setup.tokenizer.encode
    ids: list[int] = []
    for message in messages:
        ids += [
            START,
            *encode(f"{message['role']}\n"),
            *encode(body_validation.message_text(message)),
            END,
            *encode("\n"),
        ]
    if continues:
        return tuple(ids[: -1 - len(encode("\n"))])
    return (*ids, START, *encode("assistant\n"))


def prompts(body: Json) -> list[str | list[int]] | None:
    """The prompts of a completion request: None for a missing or empty one. InvalidError for anything else."""
    value = body.get("prompt")
    if value is None or value in ("", []):
        return None
    if isinstance(value, str) or _is_token_ids(value):
        return [value]
    if isinstance(value, list) and all(isinstance(one, str) or _is_token_ids(one) for one in value):
        return value
    raise InvalidError("string_type", ("prompt",), "Input should be a valid string", value)


def tokenize(setup: Setup, body: Json) -> tuple[int, ...]:
    """The token ids of the chat or prompt of a tokenize request."""
    if "messages" not in body:
        return setup.tokenizer.encode(str(body.get("prompt")))
    return chat_token_ids(setup, body_validation.messages(body), continues=bool(body.get("continue_final_message")))


def has_reasoning(setup: Setup, body: Json) -> bool:
    """Whether the response begins with reasoning."""
    if setup.options.reasoning is Reasoning.OFF:
        return False
    requested = body_validation.nested(body, "chat_template_kwargs", "enable_thinking")
    effort = body.get("reasoning_effort")
    if requested is None and effort is not None:
        requested = effort != "none"
    return setup.options.reasoning is Reasoning.ALWAYS if requested is None else bool(requested)


def functions(body: Json) -> list[Json]:
    """The functions of `tools`, each with a name. InvalidError for anything else."""
    found: list[Json] = []
    for index, tool in enumerate(body.get("tools") or []):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidError("missing", ("tools", index, "function"), "Field required", tool)
        found.append(function)
    return found


def called_tool(body: Json, *, enforces: bool = True) -> tuple[Tool | None, bool]:
    """The tool to call, the named one or the first, and whether the request allows a call.

    An engine that enforces forced calls keeps to the schema only if the tool is strict and has one. After a tool result
    the engine generates text instead of another call.
    """
    choice = body.get("tool_choice")
    name = chosen_tool_name(body)
    requested = [function for function in functions(body) if name in (None, function["name"])]
    has_result = bool(body.get("messages")) and body["messages"][-1].get("role") == "tool" and choice in (None, "auto")
    if not requested or choice == "none" or has_result:
        return None, choice != "none"
    forced = choice not in (None, "auto")
    if forced and enforces and not (requested[0].get("strict") is True and requested[0].get("parameters")):
        return Tool(name=requested[0]["name"], arguments=_OF_NO_SCHEMA, named=name is not None, forced=True), True
    try:
        arguments = json.dumps(sample(requested[0].get("parameters") or {"type": "object"}), ensure_ascii=False)
    except SchemaError as error:
        raise RejectionError(f"Grammar error: Invalid type: {error.kind}") from error
    return Tool(name=requested[0]["name"], arguments=arguments, named=name is not None, forced=forced), True


def chosen_tool_name(body: Json) -> str | None:
    """The tool that `tool_choice` names."""
    name = body_validation.member(body_validation.member(body.get("tool_choice"), "function"), "name")
    return name if isinstance(name, str) else None


def top_logprobs(body: Json, *, chat: bool) -> int | None:
    """The number of alternatives per token; None without log probabilities."""
    if chat:
        return body_validation.integer(body, "top_logprobs", 0) if body.get("logprobs") else None
    value = body.get("logprobs")
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def parse_requested_tokens(body: Json, default: int) -> tuple[str, int]:
    """The field that limits the tokens, and its value."""
    field = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    return field, body_validation.integer(body, field, default)


def plain_tool_call(tool: Tool) -> str:
    """The call as plain text, as the model generates it."""
    return f'<tool_call>\n{{"name": "{tool.name}", "arguments": {tool.arguments}}}\n</tool_call>'


def _is_token_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    )

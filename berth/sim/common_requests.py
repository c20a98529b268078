"""What the dialects have in common when they read requests: prompts, chats, tools, reasoning."""

import json
from typing import Any

from berth.sim import body_validation
from berth.sim.body_validation import InvalidError, Json, RejectionError
from berth.sim.dialect import Setup
from berth.sim.generation import Tool
from berth.sim.options import Reasoning
from berth.sim.structured_output import SchemaError, sample
from berth.sim.tokenizer import END, START


def chat_token_ids(setup: Setup, messages: list[Json], *, continues: bool = False) -> tuple[int, ...]:
    """The token ids of a rendered chat. With `continues` the last message is left open."""
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
    if isinstance(value, str) or _ids(value):
        return [value]
    if isinstance(value, list) and all(isinstance(one, str) or _ids(one) for one in value):
        return value
    raise InvalidError("string_type", ("prompt",), "Input should be a valid string", value)


def has_reasoning(setup: Setup, body: Json) -> bool:
    """Whether the answer begins with reasoning."""
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


def called_tool(body: Json) -> tuple[Tool | None, bool]:
    """The tool that is called, the first one or the one named, and whether the request allows a call at all.

    After a tool's result there is no call: the engine answers in words.
    """
    choice = body.get("tool_choice")
    name = chosen_tool_name(body)
    requested = [function for function in functions(body) if name in (None, function["name"])]
    answered = bool(body.get("messages")) and body["messages"][-1].get("role") == "tool" and choice in (None, "auto")
    if not requested or choice == "none" or answered:
        return None, choice != "none"
    try:
        arguments = json.dumps(sample(requested[0].get("parameters") or {"type": "object"}), ensure_ascii=False)
    except SchemaError as error:
        raise RejectionError(f"Grammar error: Invalid type: {error.kind}") from error
    forced = choice not in (None, "auto")
    return Tool(name=requested[0]["name"], arguments=arguments, named=name is not None, forced=forced), True


def chosen_tool_name(body: Json) -> str | None:
    """The tool that `tool_choice` names."""
    name = body_validation.member(body_validation.member(body.get("tool_choice"), "function"), "name")
    return name if isinstance(name, str) else None


def top_logprobs(body: Json, *, chat: bool) -> int | None:
    """How many alternatives are shown beside each token; None without log probabilities."""
    if chat:
        return body_validation.integer(body, "top_logprobs", 0) if body.get("logprobs") else None
    value = body.get("logprobs")
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    )

"""A conversation in Anthropic's blocks as messages of OpenAI's chat.

There are three differences in structure:

1. Anthropic treats adjacent messages of one role as one turn, and chat templates expect alternating roles: such
   messages are merged.
2. Tool results are blocks of a user message. Here each becomes a message, before the user's other content. Images in
   them move to the user message, because a tool message holds only text.
3. A system message may follow others. Many templates reject that, so it becomes a marked part of the user's turn.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from berth import json_text
from berth.apis.anthropic.tools import short_name
from berth.apis.openai.fields import mismatch, string_field
from berth.canonical import Json
from berth.errors import InvalidRequestError

# Claude Code puts this before the system prompt, with a new number in each request. Anthropic removes it. Kept, it
# would make every request miss the engine's prefix cache.
_ATTRIBUTION: Final = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n*")
_SUPPORTED: Final = "text, image, document (as text), search_result, tool_result"
# The assistant's blocks that engines can read. Others (server tools, redacted thinking) are ignored.
_ASSISTANT_KINDS: Final = ("text", "thinking", "tool_use")
Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    param: str  # its place, for error messages
    kind: str
    fields: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    role: Role
    blocks: list[Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    messages: list[Json]  # OpenAI's
    prefilled: bool  # the last one is the beginning of the response
    ignored: frozenset[str]  # kinds of blocks that no engine can read


def conversation(document: Json) -> Conversation:
    """From the checked fields `system` and `messages`. InvalidRequestError for a block that is not Anthropic's, or that
    no engine can read.
    """
    system, turns = _turns(document)
    prompt = "\n\n".join(filter(None, system))
    messages: list[Json] = [{"role": "system", "content": prompt}] if prompt else []
    for turn in turns:
        messages += _assistant_messages(turn) if turn.role == "assistant" else _user_messages(turn)
    while messages and messages[-1]["role"] == "assistant":  # one without text, which prefills nothing, is dropped
        if messages[-1]["content"] or "tool_calls" in messages[-1]:
            break
        messages.pop()
    if not any(message["role"] != "system" for message in messages):
        raise InvalidRequestError("'messages' must contain a user message.", param="messages")
    if "tool_calls" in messages[-1]:
        raise InvalidRequestError(
            "'messages' ends with a tool_use block: a user message with its tool_result must follow.", param="messages"
        )
    blocks = [block for turn in turns if turn.role == "assistant" for block in turn.blocks]
    ignored = frozenset(f"messages.{block.kind}" for block in blocks if block.kind not in _ASSISTANT_KINDS)
    return Conversation(messages=messages, prefilled=messages[-1]["role"] == "assistant", ignored=ignored)


def _turns(document: Json) -> tuple[list[str], list[Turn]]:
    """The texts of the system prompt, and the turns. A system message that follows others becomes part of a turn."""
    system = [_ATTRIBUTION.sub("", _text(block)) for block in blocks_of(document.get("system") or [], "system")]
    turns: list[Turn] = []
    for place, message in enumerate(document["messages"]):
        if not isinstance(message, dict):
            raise mismatch(f"messages.{place}", "an object", message)
        role = message.get("role")
        if role not in ("user", "assistant", "system"):
            raise mismatch(f"messages.{place}.role", "user, assistant or system", role)
        blocks = blocks_of(message.get("content"), f"messages.{place}.content")
        if role == "system":
            texts = [_text(block) for block in blocks]
            if not turns:
                system += texts
                continue
            marked = [f"<system>\n{text}\n</system>" for text in texts]
            blocks = [replace(block, fields={"text": text}) for block, text in zip(blocks, marked, strict=True)]
        turn_role: Role = "assistant" if role == "assistant" else "user"
        if turns and turns[-1].role == turn_role:
            blocks = turns.pop().blocks + blocks
        turns.append(Turn(role=turn_role, blocks=blocks))
    return system, turns


def blocks_of(content: Any, param: str) -> list[Block]:
    """A string is one text block."""
    if isinstance(content, str):
        return [Block(param=param, kind="text", fields={"text": content})]
    if not isinstance(content, list):
        raise mismatch(param, "a string or a list of blocks", content)
    return [_block(block, f"{param}.{place}") for place, block in enumerate(content)]


def _block(block: Any, param: str) -> Block:
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        raise mismatch(param, "an object with a 'type'", block)
    return Block(param=param, kind=block["type"], fields=block)


def _assistant_messages(turn: Turn) -> list[Json]:
    """One message, or none for a turn without anything that an engine can read."""
    text = "".join(_text(block) for block in turn.blocks if block.kind == "text")
    reasoning = "\n".join(_string(block, "thinking") for block in turn.blocks if block.kind == "thinking")
    calls = []
    for block in turn.blocks:
        if block.kind != "tool_use":
            continue
        arguments = block.fields.get("input")
        if not isinstance(arguments, dict):
            raise mismatch(f"{block.param}.input", "an object", arguments)
        function = {"name": short_name(_string(block, "name")), "arguments": json_text.text_of(arguments)}
        calls.append({"id": _string(block, "id"), "type": "function", "function": function})
    if not (text or reasoning or calls):
        return []
    message: Json = {"role": "assistant", "content": text}
    if reasoning:
        message["reasoning"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return [message]


def _user_messages(turn: Turn) -> list[Json]:
    """The results of tools as messages of their own, then one with the other blocks and the results' images."""
    messages: list[Json] = []
    images: list[Json] = []
    for block in turn.blocks:
        if block.kind == "tool_result":
            content = block.fields.get("content") or ""
            parts = [part for inner in blocks_of(content, f"{block.param}.content") for part in _parts(inner)]
            text = "\n".join(part["text"] for part in parts if part["type"] == "text")
            if block.fields.get("is_error") is True:
                text = f"Error: {text}"
            images += [part for part in parts if part["type"] != "text"]
            messages.append({"role": "tool", "tool_call_id": _string(block, "tool_use_id"), "content": text})
    parts = [*images, *(part for block in turn.blocks if block.kind != "tool_result" for part in _parts(block))]
    if parts or not messages:
        # Text alone becomes one string: engines would join its parts in different ways.
        text_only = all(part["type"] == "text" for part in parts)
        content = "\n".join(part["text"] for part in parts) if text_only else parts
        messages.append({"role": "user", "content": content})
    return messages


def _parts(block: Block) -> list[Json]:
    """A user's block as parts of a message: {"type": "text"} or {"type": "image_url"}. Empty text makes none."""
    match block.kind:
        case "text":
            return _text_parts(_text(block))
        case "image":
            return [_image_part(_source(block))]
        case "document":
            return _document_parts(block)
        case "search_result":
            inner = blocks_of(block.fields.get("content") or "", f"{block.param}.content")
            return _text_parts(_heading(block, "title", "source"), *map(_text, inner))
        case "tool_reference":
            return _text_parts(_string(block, "tool_name"))
        case _:
            raise InvalidRequestError(
                f"{block.param!r} has the unsupported type {block.kind!r}. Supported: {_SUPPORTED}.", param=block.param
            )


def _text_parts(*texts: str) -> list[Json]:
    return [{"type": "text", "text": text} for text in texts if text]


def _image_part(source: Block) -> Json:
    match source.kind:
        case "url":
            url = _string(source, "url")
        case "base64":
            url = f"data:{_string(source, 'media_type')};base64,{_string(source, 'data')}"
        case _:
            raise InvalidRequestError(
                f"'{source.param}.type' must be base64 or url, not {source.kind!r}.", param=source.param
            )
    return {"type": "image_url", "image_url": {"url": url}}


def _document_parts(block: Block) -> list[Json]:
    source = _source(block)
    match source.kind:
        case "text":
            inner: list[Json] = [{"type": "text", "text": _string(source, "data")}]
        case "content":
            blocks = blocks_of(source.fields.get("content"), f"{source.param}.content")
            inner = [part for block in blocks for part in _parts(block)]
        case _:
            raise InvalidRequestError(
                f"'{source.param}.type' must be text or content, not {source.kind!r}: PDF is not supported.",
                param=source.param,
            )
    return [*_text_parts(_heading(block, "title", "context")), *inner]


def _source(block: Block) -> Block:
    return _block(block.fields.get("source"), f"{block.param}.source")


def _heading(block: Block, *names: str) -> str:
    return "\n".join(_string(block, name) for name in names if block.fields.get(name) is not None)


def _text(block: Block) -> str:
    if block.kind != "text":
        raise InvalidRequestError(f"{block.param!r} must be a text block, not {block.kind!r}.", param=block.param)
    return _string(block, "text")


def _string(block: Block, name: str) -> str:
    return string_field(block.fields, name, block.param)

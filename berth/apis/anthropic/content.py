"""A conversation in Anthropic's blocks as messages of OpenAI's chat.

There are three differences in structure:

1. Anthropic treats adjacent messages of one role as one turn, and chat templates expect alternating roles: such
   messages are merged.
2. Tool results are blocks of a user message. Here each becomes a message, before the user's other content. Images in
   them move to the user message, because a tool message holds only text.
3. A system message may follow others. Many templates reject that, so it becomes a marked part of the user's turn.

A compaction block replaces all turns before it with its summary, as it does at Anthropic.
"""

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from berth import json_text
from berth.apis.anthropic.server_results import result_text
from berth.apis.anthropic.tools import TOOL_CHANGES, short_name
from berth.apis.openai.fields import mismatch, string_field
from berth.canonical import Json
from berth.errors import InvalidRequestError, shortened

# Claude Code puts this before the system prompt, with a new number in each request. Anthropic removes it. Kept, it
# would make every request miss the engine's prefix cache.
_ATTRIBUTION: Final = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n*")
_SUPPORTED: Final = "text, image, document (as text), search_result, tool_result"
# The assistant's blocks that say nothing to an engine: they are ignored, and named in x-berth-ignored.
IGNORED: Final = ("redacted_thinking", "fallback", "mcp_tool_listing")
# Calls that Anthropic's servers made, and their results: calls and results like others.
SERVER_CALLS: Final = ("server_tool_use", "mcp_tool_use")
SERVER_RESULTS: Final = (
    *("web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result", "mcp_tool_result"),
    *("bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result"),
    "advisor_tool_result",
)
USER: Final = ("text", "image", "document", "search_result", "tool_result")
DIRECTIVES: Final = (*TOOL_CHANGES, "compaction")
ASSISTANT: Final = ("text", "thinking", "tool_use", *SERVER_CALLS, *SERVER_RESULTS)
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
    changes_tools: bool  # it may contain blocks that add tools


def conversation(document: Json) -> Conversation:
    """From the checked fields `system` and `messages`. InvalidRequestError for a block that is not Anthropic's, or that
    no engine can read.
    """
    system, turns, changes_tools = _turns(document)
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
    answered = {block.fields["tool_use_id"] for block in blocks if block.kind in SERVER_RESULTS}
    ignored = frozenset(
        f"messages.{block.kind}"
        for block in blocks
        if block.kind in IGNORED or (block.kind in SERVER_CALLS and block.fields["id"] not in answered)
    )
    prefilled = messages[-1]["role"] == "assistant"
    return Conversation(messages=messages, prefilled=prefilled, ignored=ignored, changes_tools=changes_tools)


def _turns(document: Json) -> tuple[list[str], list[Turn], bool]:
    """The texts of the system prompt, the turns, and whether a block may change the tools. A system message that
    follows others becomes part of a turn.
    """
    system = [_ATTRIBUTION.sub("", _text(block)) for block in blocks_of(document.get("system") or [], "system")]
    turns: list[Turn] = []
    changes_tools = False
    for place, message in enumerate(document["messages"]):
        if not isinstance(message, dict):
            raise mismatch(f"messages.{place}", "an object", message)
        role = message.get("role")
        if role not in ("user", "assistant", "system"):
            raise mismatch(f"messages.{place}.role", "user, assistant or system", role)
        blocks = blocks_of(message.get("content"), f"messages.{place}.content")
        if any(block.kind in DIRECTIVES for block in blocks):
            changes_tools = True
            blocks = _compacted(turns, [block for block in blocks if block.kind not in TOOL_CHANGES])
            if not blocks:
                continue
        if role == "system":
            texts = [_text(block) for block in blocks]
            if not turns:
                system += texts
                continue
            marked = [f"<system>\n{text}\n</system>" for text in texts]
            blocks = [replace(block, fields={"text": text}) for block, text in zip(blocks, marked, strict=True)]
        turn_role: Role = "assistant" if role == "assistant" else "user"
        if turns and turns[-1].role == turn_role:
            turns[-1].blocks.extend(blocks)
        else:
            turns.append(Turn(role=turn_role, blocks=blocks))
    return system, turns, changes_tools


def _compacted(turns: list[Turn], blocks: list[Block]) -> list[Block]:
    """The blocks after the last summary, which becomes the only turn before them. One without text is a failed try."""
    for place, block in reversed(list(enumerate(blocks))):
        if block.kind == "compaction" and block.fields.get("content") is not None:
            text = f"<summary>\n{_string(block, 'content')}\n</summary>"
            turns[:] = [Turn(role="user", blocks=[replace(block, kind="text", fields={"text": text})])]
            return [later for later in blocks[place + 1 :] if later.kind != "compaction"]
    return [block for block in blocks if block.kind != "compaction"]


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
    """One message, or none for a turn without anything that an engine can read. The results of calls that Anthropic's
    servers made come between messages.
    """
    made = {_string(block, "id") for block in turn.blocks if block.kind in SERVER_CALLS}
    answered = {_string(block, "tool_use_id") for block in turn.blocks if block.kind in SERVER_RESULTS} & made
    messages: list[Json] = []
    part: list[Block] = []
    for block in turn.blocks:
        if block.kind not in (*ASSISTANT, *IGNORED):
            raise InvalidRequestError(
                f"{block.param!r} has the unsupported type {block.kind!r}. Supported: {', '.join(ASSISTANT)}.",
                param=block.param,
            )
        if block.kind not in SERVER_RESULTS:
            part.append(block)
        elif (call_id := block.fields["tool_use_id"]) in answered:
            messages += _assistant_message(part, answered)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": result_text(block.fields)})
            part = []
    return messages + _assistant_message(part, answered)


def _assistant_message(blocks: list[Block], answered: AbstractSet[str]) -> list[Json]:
    """None without text, reasoning or calls. Calls of servers are left out unless they were `answered`."""
    text = "".join(_text(block) for block in blocks if block.kind == "text")
    reasoning = "\n".join(_string(block, "thinking") for block in blocks if block.kind == "thinking")
    calls = []
    for block in blocks:
        if block.kind != "tool_use" and not (block.kind in SERVER_CALLS and block.fields["id"] in answered):
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
                f"{block.param!r} has the unsupported type {shortened(block.kind)!r}. Supported: {_SUPPORTED}.",
                param=block.param,
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
                f"'{source.param}.type' must be base64 or url, not {shortened(source.kind)!r}.", param=source.param
            )
    return {"type": "image_url", "image_url": {"url": url}}


def _document_parts(block: Block) -> list[Json]:
    source = _source(block)
    match source.kind:
        case "text":
            inner: list[Json] = [{"type": "text", "text": _string(source, "data")}]
        case "content":
            inner = []
            for one in blocks_of(source.fields.get("content"), f"{source.param}.content"):
                if one.kind not in ("text", "image"):  # a document in a document could be nested without end
                    raise InvalidRequestError(
                        f"{one.param!r} must be text or image, not {one.kind!r}.", param=one.param
                    )
                inner += _parts(one)
        case _:
            raise InvalidRequestError(
                f"'{source.param}.type' must be text or content, not {shortened(source.kind)!r}: PDF is not supported.",
                param=source.param,
            )
    return [*_text_parts(_heading(block, "title", "context")), *inner]


def _source(block: Block) -> Block:
    return _block(block.fields.get("source"), f"{block.param}.source")


def _heading(block: Block, *names: str) -> str:
    return "\n".join(_string(block, name) for name in names if block.fields.get(name) is not None)


def _text(block: Block) -> str:
    if block.kind != "text":
        raise InvalidRequestError(
            f"{block.param!r} must be a text block, not {shortened(block.kind)!r}.", param=block.param
        )
    return _string(block, "text")


def _string(block: Block, name: str) -> str:
    return string_field(block.fields, name, block.param)

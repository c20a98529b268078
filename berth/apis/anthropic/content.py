"""A conversation in Anthropic's blocks, as the messages of OpenAI's chat.

Three things differ in kind, not in spelling alone:

1. Neighbours of one role are one turn at Anthropic, and chat templates want roles to alternate: they are merged.
2. Results of tools stand among the user's blocks; here each is a message of its own, in front of what else the user
   says. Images in them follow in the user's message, because a tool's message is text.
3. A system message may stand in the middle. Many templates refuse that, so it becomes a marked part of the user's turn.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn

import orjson

from berth.apis.anthropic.tools import short_name
from berth.apis.openai.fields import shown
from berth.canonical import Json
from berth.errors import InvalidRequestError

# Claude Code puts it in front of the system prompt, with a number that is new in each request. Anthropic takes it
# away; left there, no request would find its beginning in an engine's prefix cache.
_ATTRIBUTION: Final = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n*")
_READABLE: Final = "text, image, document (as text), search_result, tool_result"
Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    param: str  # where it stands, for messages
    kind: str
    fields: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    role: Role
    blocks: list[Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    messages: list[Json]  # OpenAI's
    prefilled: bool  # the last one is the beginning of the answer
    ignored: frozenset[str]  # blocks that no engine can read


def conversation(document: Json) -> Conversation:
    """Of the checked fields `system` and `messages`. InvalidRequestError for a block that is not Anthropic's, or that
    no engine can read.
    """
    system = [_system_text(block) for block in blocks_of(document.get("system") or [], "system")]
    turns: list[Turn] = []
    for place, message in enumerate(document["messages"]):
        role, blocks = _message(message, f"messages.{place}")
        if role == "system":
            texts = [_text(block) for block in blocks]
            if not turns:
                system += texts
                continue
            blocks = [_marked(block, text) for block, text in zip(blocks, texts, strict=True)]
        _add(turns, "assistant" if role == "assistant" else "user", blocks)
    prompt = "\n\n".join(filter(None, system))
    messages: list[Json] = [{"role": "system", "content": prompt}] if prompt else []
    for turn in turns:
        messages += _assistant(turn) if turn.role == "assistant" else _user(turn)
    return _checked_end(messages, _unreadable(turns))


def blocks_of(content: Any, param: str) -> list[Block]:
    """A string is one block of text."""
    if isinstance(content, str):
        return [Block(param=param, kind="text", fields={"text": content})]
    if not isinstance(content, list):
        _refuse(f"{param!r} must be a string or a list of blocks, not {shown(content)}.", param)
    return [_block(block, f"{param}.{place}") for place, block in enumerate(content)]


def _block(block: Any, param: str) -> Block:
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        _refuse(f"{param!r} must be an object with a 'type', not {shown(block)}.", param)
    return Block(param=param, kind=block["type"], fields=block)


def _message(message: Any, param: str) -> tuple[str, list[Block]]:
    if not isinstance(message, dict):
        _refuse(f"{param!r} must be an object, not {shown(message)}.", param)
    role = message.get("role")
    if role not in ("user", "assistant", "system"):
        _refuse(f"'{param}.role' must be user, assistant or system, not {shown(role)}.", f"{param}.role")
    return role, blocks_of(message.get("content"), f"{param}.content")


def _add(turns: list[Turn], role: Role, blocks: list[Block]) -> None:
    if turns and turns[-1].role == role:
        turns[-1] = Turn(role=role, blocks=turns[-1].blocks + blocks)
    else:
        turns.append(Turn(role=role, blocks=blocks))


def _system_text(block: Block) -> str:
    return _ATTRIBUTION.sub("", _text(block))


def _marked(block: Block, text: str) -> Block:
    return Block(param=block.param, kind="text", fields={"text": f"<system>\n{text}\n</system>"})


def _unreadable(turns: Iterable[Turn]) -> frozenset[str]:
    """In what the model said before: calls of Anthropic's own tools, their results, reasoning that is encrypted."""
    return frozenset(
        f"messages.{block.kind}"
        for turn in turns
        if turn.role == "assistant"
        for block in turn.blocks
        if block.kind not in ("text", "thinking", "tool_use")
    )


def _checked_end(messages: list[Json], ignored: frozenset[str]) -> Conversation:
    if not any(message["role"] != "system" for message in messages):
        _refuse("'messages' must hold a message of the user's.", "messages")
    last = messages[-1]
    if last["role"] != "assistant":
        return Conversation(messages=messages, prefilled=False, ignored=ignored)
    if "tool_calls" in last:
        _refuse("'messages' ends with a tool_use: a user's message with its tool_result must follow.", "messages")
    if last["content"]:
        return Conversation(messages=messages, prefilled=True, ignored=ignored)
    return _checked_end(messages[:-1], ignored)  # an answer that begins with nothing


def _assistant(turn: Turn) -> list[Json]:
    """One message, or none where nothing was said that an engine can read."""
    text = "".join(_text(block) for block in turn.blocks if block.kind == "text")
    reasoning = "\n".join(_string(block, "thinking") for block in turn.blocks if block.kind == "thinking")
    calls = [_call(block) for block in turn.blocks if block.kind == "tool_use"]
    if not (text or reasoning or calls):
        return []
    message: Json = {"role": "assistant", "content": text}
    if reasoning:
        message["reasoning"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return [message]


def _call(block: Block) -> Json:
    arguments = block.fields.get("input")
    if not isinstance(arguments, dict):
        _refuse(f"'{block.param}.input' must be an object, not {shown(arguments)}.", f"{block.param}.input")
    function = {"name": short_name(_string(block, "name")), "arguments": orjson.dumps(arguments).decode()}
    return {"id": _string(block, "id"), "type": "function", "function": function}


def _user(turn: Turn) -> list[Json]:
    messages: list[Json] = []
    parts: list[Json] = []
    for block in turn.blocks:
        if block.kind == "tool_result":
            message, images = _result(block)
            messages.append(message)
            parts += images
    for block in turn.blocks:
        if block.kind != "tool_result":
            parts += _parts(block)
    if parts or not messages:
        messages.append({"role": "user", "content": _joined(parts)})
    return messages


def _result(block: Block) -> tuple[Json, list[Json]]:
    """The tool's message, and the images that came with it."""
    content = block.fields.get("content")
    parts = [part for inner in blocks_of(content or "", f"{block.param}.content") for part in _parts(inner)]
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    if block.fields.get("is_error") is True:
        text = f"Error: {text}"
    images = [part for part in parts if part["type"] != "text"]
    return {"role": "tool", "tool_call_id": _string(block, "tool_use_id"), "content": text}, images


def _joined(parts: list[Json]) -> Any:
    """Text alone as a string: engines would join it each in its own way."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _parts(block: Block) -> Iterator[Json]:
    """A user's block as parts of a message: {"type": "text"} or {"type": "image_url"}. Empty text is none."""
    match block.kind:
        case "text":
            texts = [_text(block)]
        case "image":
            yield _image(block)
            return
        case "document":
            yield from _document(block)
            return
        case "search_result":
            inner = blocks_of(block.fields.get("content") or "", f"{block.param}.content")
            texts = [_heading(block, "title", "source"), *map(_text, inner)]
        case "tool_reference":
            texts = [_string(block, "tool_name")]
        case _:
            _refuse(f"No engine can read {block.param!r}, a {block.kind!r}. Allowed: {_READABLE}.", block.param)
    yield from ({"type": "text", "text": text} for text in texts if text)


def _image(block: Block) -> Json:
    source = _source(block)
    match source.kind:
        case "url":
            url = _string(source, "url")
        case "base64":
            url = f"data:{_string(source, 'media_type')};base64,{_string(source, 'data')}"
        case _:
            _refuse(f"'{source.param}.type' must be base64 or url, not {source.kind!r}.", source.param)
    return {"type": "image_url", "image_url": {"url": url}}


def _document(block: Block) -> Iterator[Json]:
    source = _source(block)
    match source.kind:
        case "text":
            inner: list[Json] = [{"type": "text", "text": _string(source, "data")}]
        case "content":
            blocks = blocks_of(source.fields.get("content"), f"{source.param}.content")
            inner = [part for block in blocks for part in _parts(block)]
        case _:
            _refuse(
                f"'{source.param}.type' must be text or content, not {source.kind!r}: engines read no PDF.",
                source.param,
            )
    heading = _heading(block, "title", "context")
    if heading:
        yield {"type": "text", "text": heading}
    yield from inner


def _source(block: Block) -> Block:
    return _block(block.fields.get("source"), f"{block.param}.source")


def _heading(block: Block, *names: str) -> str:
    return "\n".join(_string(block, name) for name in names if block.fields.get(name) is not None)


def _text(block: Block) -> str:
    if block.kind != "text":
        _refuse(f"{block.param!r} must be a text block here, not {block.kind!r}.", block.param)
    return _string(block, "text")


def _string(block: Block, name: str) -> str:
    value = block.fields.get(name)
    if not isinstance(value, str):
        _refuse(f"'{block.param}.{name}' must be a string, not {shown(value)}.", f"{block.param}.{name}")
    return value


def _refuse(message: str, param: str) -> NoReturn:
    raise InvalidRequestError(message, param=param)

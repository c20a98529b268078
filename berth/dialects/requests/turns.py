"""The order of the messages in a chat: one rule for all client APIs, the one of strict chat templates.

1. Instructions (`system`, `developer`) at the beginning make one system message.
2. Later ones become text of the user, in their place, between <system> and </system>: many templates reject a second
   system message, some leave it out, and moved to the beginning it would change the prefix of every turn.
3. Results of tools follow the message with their call.
4. Messages without any content are left out, except the last one.
5. Neighbours of the same role are joined, with an empty line between their texts.

No text is lost, and messages in this order stay as they are. A chat that begins with the assistant, or in which the
user speaks after a result, is not changed in this respect: no text could be put between.
"""

from collections.abc import Iterator
from typing import Any, Final

from berth.canonical import Json

_INSTRUCTIONS: Final = ("system", "developer")
_RESULTS: Final = ("tool", "function")
_CALLING: Final = "calling"  # an assistant's message with calls
# What may follow what; "" is the beginning.
_ORDER: Final = frozenset(
    {
        *(("", role) for role in ("system", "user", "assistant", _CALLING)),
        *(("system", role) for role in ("user", "assistant", _CALLING)),
        *(("user", role) for role in ("assistant", _CALLING)),
        *(("assistant", "user"), (_CALLING, "user")),
        *((before, result) for before in (_CALLING, *_RESULTS) for result in _RESULTS),
        *((result, role) for result in _RESULTS for role in ("user", "assistant", _CALLING)),
    }
)
_TEXT_KEYS: Final = ("reasoning", "reasoning_content")
_JOINED: Final = frozenset({"role", "content", "tool_calls", *_TEXT_KEYS})


def in_order(messages: list[Json]) -> list[Json]:
    before = ""
    message: Json
    for message in messages:
        role = message["role"]
        if message.get("tool_calls") and role == "assistant":
            role = _CALLING
        elif not message.get("content") and role not in _RESULTS:
            break
        if (before, role) not in _ORDER:
            break
        before = role
    else:
        return messages
    runs: list[list[Json]] = []
    for given in with_results_after_calls(messages):
        if given is not messages[-1] and is_empty(given):
            continue
        message = given
        if given["role"] in _INSTRUCTIONS:
            is_first = not runs or runs[-1][0]["role"] == "system"
            message = {**given, "role": "system"} if is_first else as_user_text(given)
        if runs and _belong_together(runs[-1][0], message):
            runs[-1].append(message)
        else:
            runs.append([message])
    return [run[0] if len(run) == 1 else joined(run) for run in runs]


def with_results_after_calls(messages: list[Json]) -> Iterator[Json]:
    """A result whose call is not known stays where it is."""
    groups: list[list[Json]] = []
    calls: dict[Any, list[Json]] = {}  # id -> the group of its message
    for message in messages:
        if message["role"] in _RESULTS and groups:
            calls.get(message.get("tool_call_id"), groups[-1]).append(message)
            continue
        groups.append([message])
        if message["role"] == "assistant":
            calls |= {call.get("id"): groups[-1] for call in message.get("tool_calls") or () if call.get("id")}
    for group in groups:
        yield from group


def is_empty(message: Json) -> bool:
    if message["role"] in _RESULTS:
        return False
    content = message.get("content")
    if isinstance(content, list) and not all(part.get("type") == "text" and not part.get("text") for part in content):
        return False
    if isinstance(content, str) and content:
        return False
    return not any(value for key, value in message.items() if key not in ("role", "name", "content"))


def as_user_text(message: Json) -> Json:
    content = message.get("content") or ""
    others: list[Json] = []
    if isinstance(content, list):
        others = [part for part in content if part.get("type") != "text"]
        content = "\n".join(part["text"] for part in content if part.get("type") == "text")
    text = f"<system>\n{content}\n</system>"
    return {"role": "user", "content": [{"type": "text", "text": text}, *others] if others else text}


def _belong_together(first: Json, second: Json) -> bool:
    """Of the same role, and of the same name where there is one."""
    if first["role"] != second["role"] or first["role"] in _RESULTS:
        return False
    names = (first.keys() | second.keys()) - _JOINED
    return first["role"] == "system" or all(first.get(name) == second.get(name) for name in names)


def joined(run: list[Json]) -> Json:
    message = dict(run[0])
    contents = [one["content"] for one in run if one.get("content")]
    if all(isinstance(content, str) for content in contents):
        message["content"] = "\n\n".join(contents)
    else:
        parts = [[{"type": "text", "text": one}] if isinstance(one, str) else one for one in contents]
        message["content"] = [part for some in parts for part in some]
    if calls := [call for one in run for call in one.get("tool_calls") or ()]:
        message["tool_calls"] = calls
    for name in _TEXT_KEYS:
        if texts := [one[name] for one in run if one.get(name)]:
            message[name] = "\n".join(texts)
    return message

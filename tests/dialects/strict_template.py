"""What the strictest chat templates demand of a conversation, as those of Mistral, Gemma and Llama 2 do."""

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from berth.canonical import Json


def problem_of(messages: Iterable[Json]) -> str | None:
    """What such a template would say; None if it accepts the messages. There are four demands:

    1. One system message at most, and it is the first.
    2. Users and the assistant alternate. Between a user's message and another one there is the assistant's; a result
       of a tool counts as a turn of its own.
    3. A result follows the message with its call, or another result. One of no earlier call may stand anywhere.
    4. No message is empty, except the last one.
    """
    messages = list(messages)
    if [message["role"] for message in messages[1:]].count("system") or any(
        message["role"] not in ("system", "user", "assistant", "tool") for message in messages
    ):
        return "a system message, or one of an unknown role, is not the first"
    known: set[str] = set()
    for before, message in pairwise(messages):
        known |= {call["id"] for call in before.get("tool_calls") or ()}
        if message["role"] == before["role"] != "tool":
            return f"two messages of {message['role']}"
        is_late = message["role"] == "tool" and before["role"] != "tool" and not before.get("tool_calls")
        if is_late and message["tool_call_id"] in known:
            return "a result does not follow its call"
        if not before.get("content") and not before.get("tool_calls") and before["role"] != "tool":
            return "an empty message"
    return None


def texts_of(messages: Iterable[Json]) -> Iterator[str]:
    """The words of all messages."""
    for message in messages:
        content = message.get("content") or ""
        texts = [content] if isinstance(content, str) else [part.get("text") or "" for part in content]
        for text in texts:
            yield from re.findall(r"\w+", re.sub(r"</?system>", "", text))

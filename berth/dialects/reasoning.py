"""Reasoning in a message has two names, `reasoning` and `reasoning_content`: engines read one, clients use either."""

from berth.canonical import Json

_NAMES = ("reasoning", "reasoning_content")


def rename_reasoning(body: Json, name: str) -> None:
    """Puts the reasoning of earlier turns under the name that the engine reads; "" removes it."""
    messages = body.get("messages") or []
    if not any(key in message for message in messages for key in _NAMES):
        return
    renamed = []
    for message in messages:
        text = message.get("reasoning") or message.get("reasoning_content")
        rest = {key: value for key, value in message.items() if key not in _NAMES}
        renamed.append({**rest, name: text} if text and name else rest)
    body["messages"] = renamed


def add_both_names(message: Json) -> bool:
    """Reasoning of a response under both names. True: something was changed."""
    text = message.get("reasoning") or message.get("reasoning_content")
    if not text or message.get("reasoning") == message.get("reasoning_content"):
        return False
    message["reasoning"] = message["reasoning_content"] = text
    return True

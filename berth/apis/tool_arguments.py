"""The arguments of tool calls for APIs that have objects where OpenAI has JSON text."""

from typing import Any

import orjson

from berth.canonical import Json


def arguments_object(text: Any) -> Json | None:
    """The arguments of a call; {} where it has none. None for text that is not a JSON object: the response was
    truncated, or the model wrote invalid JSON.
    """
    if not text or not text.strip():
        return {}
    try:
        arguments = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if arguments is None:
        return {}
    return arguments if isinstance(arguments, dict) else None

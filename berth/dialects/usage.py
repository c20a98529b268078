"""Token counts in OpenAI's `usage` objects."""

from typing import Any

from berth.canonical import Json, Usage


def read_usage(usage: Json) -> Usage:
    """0 for what is missing or null."""
    details = usage.get("prompt_tokens_details")
    return Usage(
        prompt_tokens=token_count(usage.get("prompt_tokens")),
        completion_tokens=token_count(usage.get("completion_tokens")),
        cached_tokens=token_count(details.get("cached_tokens")) if isinstance(details, dict) else 0,
    )


def token_count(value: Any) -> int:
    return value if isinstance(value, int) else 0

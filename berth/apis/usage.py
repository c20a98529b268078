"""Token counts of a canonical response, which engines may leave out."""

from typing import Any

from berth.canonical import Usage


def usage_of(usage: Any) -> Usage:
    """All 0 where the engine reported none."""
    if not isinstance(usage, dict):
        return Usage()
    return Usage(prompt_tokens=usage.get("prompt_tokens") or 0, completion_tokens=usage.get("completion_tokens") or 0)


def token_count(counts: Any, name: str) -> int:
    """One of the counts; 0 where the engine did not report it."""
    value = counts.get(name) if isinstance(counts, dict) else None
    return value if isinstance(value, int) else 0

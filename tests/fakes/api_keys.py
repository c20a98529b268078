"""API keys as boot makes them."""

from typing import Any

from berth.boot.config.api_keys import STRONG_LENGTH
from berth.plan import ApiKey
from berth.plan.keys import digest


def api_key(text: str, **fields: Any) -> ApiKey:
    """The key with this text: the first of a list, unless `fields` say otherwise."""
    guessable = len(text) < STRONG_LENGTH
    return ApiKey(**{"name": "key-1", "slot": 1, "digests": (digest(text),), "guessable": guessable, **fields})


def api_keys(*texts: str) -> tuple[ApiKey, ...]:
    """As from a list of keys."""
    return tuple(api_key(text, name=f"key-{slot}", slot=slot) for slot, text in enumerate(texts, 1))

"""What is left of a client's limits, in the headers of the API that it uses.

Each response to a client with limits has them, so names and forms are made once.
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache

from berth.apis.base import ApiFormat

Pairs = list[tuple[bytes, bytes]]
Left = tuple[
    str, int, float, float
]  # requests or tokens, the limit per minute, what is left, seconds until all is back
Writer = Callable[[Sequence[Left]], Pairs]


def writer_for(api: ApiFormat) -> Writer:
    """Ollama's and TGI's clients know none."""
    name = type(getattr(api, "of_any", api)).__module__.split(".")[2]
    if name in ("ollama", "tgi"):
        return lambda _lefts: []
    return anthropic_headers if name == "anthropic" else openai_headers


@cache
def _openai_names(kind: str, limit: int) -> tuple[tuple[bytes, bytes], bytes, bytes]:
    limited = f"x-ratelimit-limit-{kind}".encode(), b"%d" % limit
    return limited, f"x-ratelimit-remaining-{kind}".encode(), f"x-ratelimit-reset-{kind}".encode()


def openai_headers(lefts: Sequence[Left]) -> Pairs:
    """Times are durations as Go writes them."""
    pairs: Pairs = []
    for kind, limit, remaining, reset_s in lefts:
        limited, left, reset = _openai_names(kind, limit)
        pairs += (limited, (left, b"%d" % remaining if remaining > 0 else b"0"), (reset, b"%dms" % (reset_s * 1000)))
    return pairs


def anthropic_headers(lefts: Sequence[Left]) -> Pairs:
    pairs = []
    now = time.time()
    for kind, limit, remaining, reset_s in lefts:
        moment = datetime.fromtimestamp(now + reset_s, UTC).isoformat(timespec="seconds")
        name = f"anthropic-ratelimit-{kind}"
        pairs += [
            (f"{name}-limit".encode(), b"%d" % limit),
            (f"{name}-remaining".encode(), b"%d" % max(remaining, 0)),
            (f"{name}-reset".encode(), moment.replace("+00:00", "Z").encode()),
        ]
    return pairs

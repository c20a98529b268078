"""The loads of the comparison, by name."""

from etc.tools.rivals.apis import CHAT
from etc.tools.rivals.frames import ANSWER_BYTES, Pace
from etc.tools.rivals.load import Load

REQUESTS, STREAMS = "requests", "streams"
CONNECTIONS = 64
STREAM_CONNECTIONS = 100
STREAM = Pace(tokens=200, first_ms=20, next_ms=20)
SATURATION_CONNECTIONS = 256
_PATIENCE = 3  # times as long as streams should take: then a router that cannot keep up is cut


def requests(seconds: float) -> Load:
    return Load(connections=CONNECTIONS, seconds=seconds)


def streams(seconds: float, api: str = CHAT.name) -> Load:
    """As many streams one after the other as fit, at least one."""
    rounds = max(1, round(seconds / STREAM.whole_s))
    limit_s = _PATIENCE * (rounds * STREAM.whole_s + 1)
    return Load(connections=STREAM_CONNECTIONS, seconds=limit_s, pace=STREAM, streams=rounds, api=api)


def saturation(seconds: float) -> Load:
    return Load(connections=SATURATION_CONNECTIONS, seconds=seconds)


LOADS = {REQUESTS: requests, STREAMS: streams}
UNITS = {REQUESTS: "request", STREAMS: "token"}
TITLES = {
    REQUESTS: f"{CONNECTIONS} connections, whole answers of {ANSWER_BYTES} bytes as fast as they come",
    STREAMS: f"{STREAM_CONNECTIONS} streams of {STREAM.tokens} tokens, {1000 // STREAM.next_ms} of them a second",
}

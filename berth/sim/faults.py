"""The faults that the simulated engine can be told to have: one table, with what each is called and does."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


class FaultError(ValueError):
    """A fault that does not exist, or a value that it cannot have. The message says what is allowed."""


class Scope(StrEnum):
    START = "start"  # read once, when the program starts
    SERVER = "server"  # holds for the program until it is cleared
    REQUEST = "request"  # changes the answer to an inference request


class Value(StrEnum):
    """What stands after `NAME=`."""

    FLAG = "flag"
    COUNT = "count"
    DURATION = "duration"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    scope: Scope
    value: Value = Value.FLAG
    default: float | None = None  # the value when none is given; None: one must be given
    lowest: float = 0
    help: str


_R, _S = Scope.REQUEST, Scope.SERVER
FAULTS: Mapping[str, FaultKind] = {
    "refuse": FaultKind(
        scope=_S, value=Value.DURATION, default=math.inf,
        help="connections are refused, for this long; those that are open stay (--admin-port still answers)",
    ),
    "reset-before": FaultKind(scope=_R, help="TCP reset instead of an answer"),
    "status": FaultKind(
        scope=_R, value=Value.COUNT, default=503, lowest=400, help="this HTTP status, in the dialect's error shape"
    ),
    "error-frame": FaultKind(
        scope=_R, value=Value.COUNT, default=0,
        help="after N tokens the dialect's error inside a stream of status 200 (TensorRT-LLM has none: it just "
        "ends); a whole answer is a 500",
    ),
    "null": FaultKind(scope=_R, help="status 200 with the body `null`"),
    "garbage-frame": FaultKind(
        scope=_R, value=Value.COUNT, default=0, help="after N tokens one frame that is no JSON; a whole answer is cut"
    ),
    "cut-after": FaultKind(
        scope=_R, value=Value.COUNT, default=0,
        help="after N tokens the stream ends as if all were well, without finish_reason and [DONE]; a whole answer "
        "never comes, the connection is closed",
    ),
    "close-after": FaultKind(
        scope=_R, value=Value.COUNT, default=0, help="after N tokens the connection is closed, inside the chunked body"
    ),
    "reset-after": FaultKind(scope=_R, value=Value.COUNT, default=0, help="after N tokens TCP reset"),
    "stall-after": FaultKind(scope=_R, value=Value.COUNT, default=0, help="after N tokens silence, for ever"),
    "truncated-chunk": FaultKind(
        scope=_R, value=Value.COUNT, default=0, help="after N tokens half of a chunk, then the connection is closed"
    ),
    "half-utf8": FaultKind(
        scope=_R, value=Value.COUNT, default=0,
        help="the stream is cut inside the first character of several bytes that comes after N tokens",
    ),
    "hang-before": FaultKind(
        scope=_R, value=Value.DURATION, default=math.inf, help="nothing is sent for this long, then the answer"
    ),
    "slow-drip": FaultKind(
        scope=_R, value=Value.DURATION, default=0.001, help="one byte at a time, with this pause between them"
    ),
    "split": FaultKind(
        scope=_R, value=Value.COUNT, default=7, lowest=1, help="streams come in chunks of N bytes, across the frames"
    ),
    "join": FaultKind(
        scope=_R, value=Value.COUNT, default=4, lowest=1, help="streams come in chunks of N frames each"
    ),
    "wrong-content-length": FaultKind(
        scope=_R, value=Value.COUNT, default=10, lowest=1,
        help="content-length promises N bytes more than come; streams have one too, instead of chunks",
    ),
    "exit-after": FaultKind(
        scope=_S, value=Value.COUNT, default=1, lowest=1, help="the process ends after N inference requests"
    ),
    "exit-after-tokens": FaultKind(
        scope=_S, value=Value.COUNT, default=1, lowest=1, help="the process ends after N tokens, of all requests"
    ),
    "exit-at-start": FaultKind(
        scope=Scope.START, value=Value.COUNT, default=1, help="ends with this code and an engine's last words"
    ),
    "never-ready": FaultKind(scope=Scope.START, help="loads for ever"),
    "orphan": FaultKind(
        scope=Scope.START, help="starts a child that outlives the program, as an engine's workers do after SIGKILL"
    ),
    "hang-on-sigterm": FaultKind(scope=_S, help="SIGTERM and SIGINT are ignored"),
    "unhealthy": FaultKind(scope=_S, help="every health page says 503, inference works"),
    "wedged": FaultKind(scope=_S, help="health pages as ever, inference hangs"),
    "sleep-fails": FaultKind(scope=_S, help="the call that puts it to sleep is answered with 500 (--can-sleep)"),
    "wake-fails": FaultKind(scope=_S, help="the call that wakes it is answered with 500"),
    "wake-hangs": FaultKind(scope=_S, help="the call that wakes it is never answered"),
    "log-noise": FaultKind(
        scope=_S, value=Value.COUNT, default=100, lowest=1, help="N log lines a second"
    ),
}  # fmt: skip


def duration_s(text: str) -> float:
    """Seconds from `20ms`, `1.5s`, `2m`, `1h` or a plain number of seconds. ValueError otherwise."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; examples: 20ms, 1.5s, 2m")
    return float(match[1]) * _UNITS[match[2]]

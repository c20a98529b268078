"""The table of faults: name, scope, value and effect."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


class FaultError(ValueError):
    """An unknown fault or an invalid value. The message lists what is allowed."""


class Scope(StrEnum):
    START = "start"  # read once, when the program starts
    SERVER = "server"  # applies to the process until it is cleared
    REQUEST = "request"  # changes the response to an inference request


class ValueType(StrEnum):
    """The type of the value after `NAME=`."""

    FLAG = "flag"
    COUNT = "count"
    DURATION = "duration"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSpec:
    scope: Scope
    value: ValueType = ValueType.FLAG
    default: float | None = None  # None: a value is required
    lowest: float = 0
    help: str

    def parse(self, name: str, value: object) -> float:
        """The value of the fault `name`; True stands for none. FaultError for an invalid one."""
        if value is True:
            if self.value is ValueType.FLAG:
                return 1.0
            if self.default is not None:
                return self.default
        if self.value is ValueType.FLAG:
            raise FaultError(f"fault {name!r} takes no value, got {value!r}")
        try:
            number = duration_s(str(value)) if self.value is ValueType.DURATION else float(int(str(value)))
        except ValueError as error:
            allowed = "a duration such as 20ms" if self.value is ValueType.DURATION else "a whole number"
            raise FaultError(f"fault {name}={value!r}: expected {allowed}") from error
        if number < self.lowest:
            raise FaultError(f"fault {name}={value!r}: must be at least {self.lowest:g}")
        return number


_R, _S = Scope.REQUEST, Scope.SERVER
FAULTS: Mapping[str, FaultSpec] = {
    "refuse": FaultSpec(
        scope=_S, value=ValueType.DURATION, default=math.inf,
        help="connections are refused for this long; open ones stay (and --admin-port still responds)",
    ),
    "reset-before": FaultSpec(scope=_R, help="TCP reset instead of a response"),
    "status": FaultSpec(
        scope=_R, value=ValueType.COUNT, default=503, lowest=400, help="this HTTP status, in the dialect's error shape"
    ),
    "error-frame": FaultSpec(
        scope=_R, value=ValueType.COUNT, default=0,
        help="after N tokens the dialect's error inside a stream of status 200 (TensorRT-LLM has none: its stream "
        "ends); a full response is a 500",
    ),
    "null": FaultSpec(scope=_R, help="status 200 with the body `null`"),
    "garbage-frame": FaultSpec(
        scope=_R, value=ValueType.COUNT, default=0,
        help="after N tokens one frame of invalid JSON; a full response is cut"
    ),
    "cut-after": FaultSpec(
        scope=_R, value=ValueType.COUNT, default=0,
        help="after N tokens the stream ends normally, but without finish_reason and [DONE]; instead of a full "
        "response the connection is closed",
    ),
    "close-after": FaultSpec(
        scope=_R, value=ValueType.COUNT, default=0,
        help="after N tokens the connection is closed inside the chunked body"
    ),
    "reset-after": FaultSpec(scope=_R, value=ValueType.COUNT, default=0, help="after N tokens TCP reset"),
    "stall-after": FaultSpec(scope=_R, value=ValueType.COUNT, default=0, help="after N tokens nothing more is sent"),
    "truncated-chunk": FaultSpec(
        scope=_R, value=ValueType.COUNT, default=0, help="after N tokens half of a chunk, then the connection is closed"
    ),
    "half-utf8": FaultSpec(
        scope=_R, value=ValueType.COUNT, default=0,
        help="the stream is cut inside the first character of several bytes that comes after N tokens",
    ),
    "hang-before": FaultSpec(
        scope=_R, value=ValueType.DURATION, default=math.inf, help="nothing is sent for this long, then the response"
    ),
    "slow-drip": FaultSpec(
        scope=_R, value=ValueType.DURATION, default=0.001, help="one byte at a time, with this pause between them"
    ),
    "split": FaultSpec(
        scope=_R, value=ValueType.COUNT, default=7, lowest=1, help="streams come in chunks of N bytes, across frames"
    ),
    "join": FaultSpec(
        scope=_R, value=ValueType.COUNT, default=4, lowest=1, help="streams come in chunks of N frames each"
    ),
    "wrong-content-length": FaultSpec(
        scope=_R, value=ValueType.COUNT, default=10, lowest=1,
        help="content-length announces N bytes more than are sent; streams have one too, instead of chunks",
    ),
    "exit-after": FaultSpec(
        scope=_S, value=ValueType.COUNT, default=1, lowest=1, help="the process ends after N inference requests"
    ),
    "exit-after-tokens": FaultSpec(
        scope=_S, value=ValueType.COUNT, default=1, lowest=1, help="the process ends after N tokens, of all requests"
    ),
    "exit-at-start": FaultSpec(
        scope=Scope.START, value=ValueType.COUNT, default=1, help="exits with this code and an engine's final log lines"
    ),
    "never-ready": FaultSpec(scope=Scope.START, help="never finishes loading"),
    "orphan": FaultSpec(
        scope=Scope.START, help="starts a child that outlives the program, as an engine's workers do after SIGKILL"
    ),
    "hang-on-sigterm": FaultSpec(scope=_S, help="SIGTERM and SIGINT are ignored"),
    "unhealthy": FaultSpec(scope=_S, help="every health page responds 503, inference works"),
    "wedged": FaultSpec(scope=_S, help="health pages respond as usual, inference hangs, also what runs"),
    "bad-weights": FaultSpec(
        scope=_S,
        help="log probabilities are not numbers: a full response that has some is a 500, in SGLang's they are null",
    ),
    "sleep-fails": FaultSpec(scope=_S, help="the sleep call responds 500 (--can-sleep)"),
    "sleep-hangs": FaultSpec(scope=_S, help="the sleep call hangs"),
    "wake-fails": FaultSpec(scope=_S, help="the wake call responds 500"),
    "wake-hangs": FaultSpec(scope=_S, help="the wake call hangs"),
    "gpu-residue": FaultSpec(
        scope=_S, value=ValueType.COUNT, default=1024, help="asleep it holds N MiB of each GPU (--gpu-memory)"
    ),
    "gpu-release": FaultSpec(
        scope=Scope.START, value=ValueType.DURATION, default=2,
        help="after its end it takes this long until its GPU memory is free (--gpu-memory)",
    ),
    "gpu-leak": FaultSpec(
        scope=Scope.START, value=ValueType.COUNT, default=1024,
        help="N MiB of each GPU stay in use after its end (--gpu-memory)",
    ),
    "log-noise": FaultSpec(
        scope=_S, value=ValueType.COUNT, default=100, lowest=1, help="N log lines a second"
    ),
}  # fmt: skip


def duration_s(text: str) -> float:
    """Seconds from `20ms`, `1.5s`, `2m`, `1h` or a plain number of seconds. ValueError otherwise."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; examples: 20ms, 1.5s, 2m")
    return float(match[1]) * _UNITS[match[2]]

"""The faults that are on now, and what they do to one request.

`--fault NAME[=VALUE][@REQUESTS]` switches one on at the start, `POST /sim/faults` later. With REQUESTS it is over
after that many inference requests; the health, model and metrics pages never spend one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from berth.sim.faults import FAULTS, FaultError, FaultSpec, Scope, ValueType, duration_s


class EndingKind(StrEnum):
    """How an answer ends before it is complete."""

    CUT = "cut"
    CLOSE = "close"
    RESET = "reset"
    STALL = "stall"
    HALF_CHUNK = "half-chunk"
    HALF_CHARACTER = "half-character"
    ERROR = "error"


_ENDINGS = {
    "cut-after": EndingKind.CUT,
    "close-after": EndingKind.CLOSE,
    "reset-after": EndingKind.RESET,
    "stall-after": EndingKind.STALL,
    "truncated-chunk": EndingKind.HALF_CHUNK,
    "half-utf8": EndingKind.HALF_CHARACTER,
    "error-frame": EndingKind.ERROR,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    after_tokens: int
    kind: EndingKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What the faults do to one request."""

    reset: bool = False
    null: bool = False
    status: int | None = None
    hang_s: float = 0.0
    ending: Ending | None = None
    garbage_after: int | None = None
    drip_s: float | None = None
    split_bytes: int | None = None
    join_frames: int | None = None
    missing_bytes: int = 0


NO_EFFECTS = Effects()


@dataclass(slots=True, kw_only=True)
class Fault:
    """A fault that is on. `left` counts down: the requests that it still applies to; None is all."""

    value: float
    left: int | None = None


class Faults:
    """The faults that are on now."""

    def __init__(self) -> None:
        self._on: dict[str, Fault] = {}

    def set(self, name: str, value: object = True, requests: int | None = None) -> None:
        """FaultError for an unknown name or a value that it cannot have."""
        kind = FAULTS.get(name)
        if kind is None:
            raise FaultError(f"unknown fault {name!r}; there are: {', '.join(FAULTS)}")
        if requests is not None and (kind.scope is not Scope.REQUEST or requests < 1):
            raise FaultError(f"fault {name!r}: a number of requests, 1 or more, goes with faults of requests only")
        self._on[name] = Fault(value=_value(name, kind, value), left=requests)

    def clear(self, name: str | None = None) -> None:
        if name is None:
            self._on.clear()
        else:
            self._on.pop(name, None)

    def value(self, name: str) -> float | None:
        """The value of a fault that is on."""
        fault = self._on.get(name)
        return None if fault is None else fault.value

    def spend(self, name: str, amount: int = 1) -> bool:
        """Counts a countdown fault (`exit-after`) down; True when it has come to its end."""
        fault = self._on.get(name)
        if fault is None:
            return False
        fault.value -= amount
        return fault.value <= 0

    def take(self) -> Effects:
        """What is on for the next inference request; limited faults are one request nearer to their end."""
        if not self._on:
            return NO_EFFECTS
        taken = {name: fault.value for name, fault in self._on.items() if FAULTS[name].scope is Scope.REQUEST}
        for name in taken:
            self._count_down(name)
        return _effects(taken)

    def _count_down(self, name: str) -> None:
        fault = self._on[name]
        if fault.left is not None:
            fault.left -= 1
            if fault.left == 0:
                del self._on[name]

    def to_json(self) -> dict[str, dict[str, float | int | str | None]]:
        return {
            name: {"value": "forever" if math.isinf(fault.value) else fault.value, "requests_left": fault.left}
            for name, fault in self._on.items()
        }


def set_from_text(faults: Faults, text: str) -> None:
    """Switches on what `NAME[=VALUE][@REQUESTS]` says; FaultError where it says nothing sensible."""
    spec, at, requests = text.partition("@")
    name, equals, value = spec.partition("=")
    if at and not requests.isdecimal():
        raise FaultError(f"fault {text!r}: after @ comes a number of requests, for example {spec}@1")
    faults.set(name, value if equals else True, int(requests) if at else None)


def set_from_json(faults: Faults, changes: object) -> None:
    """`{"name": true | value | {"value": .., "requests": ..}, ...}`; false switches one off."""
    if not isinstance(changes, dict):
        raise FaultError('expected an object, for example {"reset-after": 5}')
    for name, change in changes.items():
        if change is False:
            faults.clear(name)
            continue
        if FAULTS.get(name, FAULTS["refuse"]).scope is Scope.START:
            raise FaultError(f"fault {name!r} works at the start only: use --fault {name}")
        value, requests = (
            (change.get("value", True), change.get("requests")) if isinstance(change, dict) else (change, None)
        )
        if requests is not None and not isinstance(requests, int):
            raise FaultError(f"fault {name!r}: requests={requests!r} is no number")
        faults.set(name, value, requests)


def _value(name: str, kind: FaultSpec, value: object) -> float:
    if value is True:
        if kind.value is ValueType.FLAG:
            return 1.0
        if kind.default is not None:
            return kind.default
    if kind.value is ValueType.FLAG:
        raise FaultError(f"fault {name!r} takes no value, it got {value!r}")
    try:
        number = duration_s(str(value)) if kind.value is ValueType.DURATION else float(int(str(value)))
    except ValueError as error:
        allowed = "a duration such as 20ms" if kind.value is ValueType.DURATION else "a whole number"
        raise FaultError(f"fault {name}={value!r}: the value is {allowed}") from error
    if number < kind.lowest:
        raise FaultError(f"fault {name}={value!r}: at least {kind.lowest:g} is allowed")
    return number


def _effects(taken: Mapping[str, float]) -> Effects:
    endings = [Ending(after_tokens=int(taken[name]), kind=kind) for name, kind in _ENDINGS.items() if name in taken]
    return Effects(
        reset="reset-before" in taken,
        null="null" in taken,
        status=_whole(taken, "status"),
        hang_s=taken.get("hang-before", 0.0),
        ending=min(endings, key=lambda ending: ending.after_tokens, default=None),
        garbage_after=_whole(taken, "garbage-frame"),
        drip_s=taken.get("slow-drip"),
        split_bytes=_whole(taken, "split"),
        join_frames=_whole(taken, "join"),
        missing_bytes=int(taken.get("wrong-content-length", 0)),
    )


def _whole(taken: Mapping[str, float], name: str) -> int | None:
    return int(taken[name]) if name in taken else None

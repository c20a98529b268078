"""The faults that are active now, and their effects on one request.

`--fault NAME[=VALUE][@REQUESTS]` sets one at the start, `POST /sim/faults` later. With REQUESTS it ends after that many
inference requests. The pages for health, models and metrics do not count.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from berth.sim.faults.table import FAULTS, FaultError, Scope


class EndingKind(StrEnum):
    """How a response ends before it is complete."""

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
    """The effects of the faults on one request."""

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

    @classmethod
    def of(cls, values: Mapping[str, float]) -> "Effects":
        """`values`: of the faults of one request, by name. The ending that comes first is the only one."""
        endings = (Ending(after_tokens=int(values[name]), kind=_ENDINGS[name]) for name in _ENDINGS if name in values)
        return cls(
            reset="reset-before" in values,
            null="null" in values,
            status=_integer(values, "status"),
            hang_s=values.get("hang-before", 0.0),
            ending=min(endings, key=lambda ending: ending.after_tokens, default=None),
            garbage_after=_integer(values, "garbage-frame"),
            drip_s=values.get("slow-drip"),
            split_bytes=_integer(values, "split"),
            join_frames=_integer(values, "join"),
            missing_bytes=int(values.get("wrong-content-length", 0)),
        )


NO_EFFECTS = Effects()


@dataclass(slots=True, kw_only=True)
class Fault:
    """An active fault. `requests_left` counts down; None means no limit."""

    value: float
    requests_left: int | None = None


class Faults:
    """The faults that are active now."""

    def __init__(self) -> None:
        self._active: dict[str, Fault] = {}

    def set(self, name: str, value: object = True, requests: int | None = None) -> None:
        """FaultError for an unknown name or an invalid value."""
        kind = FAULTS.get(name)
        if kind is None:
            raise FaultError(f"unknown fault {name!r}; known: {', '.join(FAULTS)}")
        if requests is not None and (kind.scope is not Scope.REQUEST or requests < 1):
            raise FaultError(f"fault {name!r}: a number of requests must be at least 1 and needs a fault of requests")
        self._active[name] = Fault(value=kind.parse(name, value), requests_left=requests)

    def clear(self, name: str | None = None) -> None:
        if name is None:
            self._active.clear()
        else:
            self._active.pop(name, None)

    def value(self, name: str) -> float | None:
        """The value of an active fault."""
        fault = self._active.get(name)
        return None if fault is None else fault.value

    def spend(self, name: str, amount: int = 1) -> bool:
        """Counts a countdown fault (`exit-after`) down. True when it reaches zero."""
        fault = self._active.get(name)
        if fault is None:
            return False
        fault.value -= amount
        return fault.value <= 0

    def take(self) -> Effects:
        """The effects on the next inference request. Counts faults with a limited number of requests down."""
        if not self._active:
            return NO_EFFECTS
        values: dict[str, float] = {}
        for name, fault in list(self._active.items()):
            if FAULTS[name].scope is not Scope.REQUEST:
                continue
            values[name] = fault.value
            if fault.requests_left is not None:
                fault.requests_left -= 1
                if fault.requests_left == 0:
                    del self._active[name]
        return Effects.of(values)

    def to_json(self) -> dict[str, dict[str, float | int | str | None]]:
        return {
            name: {"value": "forever" if math.isinf(fault.value) else fault.value, "requests_left": fault.requests_left}
            for name, fault in self._active.items()
        }


def set_from_text(faults: Faults, text: str) -> None:
    """Sets the fault of `NAME[=VALUE][@REQUESTS]`. FaultError for invalid text."""
    spec, at, requests = text.partition("@")
    name, equals, value = spec.partition("=")
    if at and not requests.isdecimal():
        raise FaultError(f"fault {text!r}: expected a number of requests after @, for example {spec}@1")
    faults.set(name, value if equals else True, int(requests) if at else None)


def set_from_json(faults: Faults, changes: object) -> None:
    """`{"name": true | value | {"value": .., "requests": ..}, ...}`. `false` clears one."""
    if not isinstance(changes, dict):
        raise FaultError('expected an object, for example {"reset-after": 5}')
    for name, change in changes.items():
        if change is False:
            faults.clear(name)
            continue
        if FAULTS.get(name, FAULTS["refuse"]).scope is Scope.START:
            raise FaultError(f"fault {name!r} applies at the start only: use --fault {name}")
        value, requests = (
            (change.get("value", True), change.get("requests")) if isinstance(change, dict) else (change, None)
        )
        if requests is not None and not isinstance(requests, int):
            raise FaultError(f"fault {name!r}: requests={requests!r} is not a number")
        faults.set(name, value, requests)


def _integer(values: Mapping[str, float], name: str) -> int | None:
    return int(values[name]) if name in values else None

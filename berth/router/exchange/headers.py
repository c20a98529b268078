"""Request headers that are Berth's own: the request id, the priority, how long to wait for a load, and the hops from
Berth to Berth.
"""

import itertools
import os
import re
from collections.abc import Mapping
from enum import IntEnum

from berth.apis.base import ApiFormat
from berth.errors import InvalidRequestError, LoopDetectedError

HEADER = b"x-priority"
# How many Berths a request has passed: each that sends it to an attached server counts itself.
SIDE = b"x-berth-revision"  # during a migration: candidate or stable
HOPS = b"x-berth-hops"
MOST_HOPS = 3
_LONGEST_ID = 128
LOAD, WAIT = b"x-berth-load", b"x-berth-wait"
LONGEST_LOAD_WAIT_S = 86_400.0
_DURATION = re.compile(rb"(\d{1,8}(?:\.\d{1,6})?)(ms|s|m|h)?")
_UNITS = {b"ms": 0.001, b"s": 1.0, b"m": 60.0, b"h": 3600.0, None: 1.0}


def request_id_headers(api: ApiFormat, request_id: str) -> list[tuple[bytes, bytes]]:
    """x-request-id always, and the header that the API's own clients read."""
    value = request_id.encode()
    own = api.request_id_header
    return [(b"x-request-id", value)] if own == b"x-request-id" else [(b"x-request-id", value), (own, value)]


class RequestIds:
    """Request ids that no other worker generates. They count up from a random start: asking the kernel for each would
    cost a system call.
    """

    __slots__ = ("_next", "_start")

    def __init__(self) -> None:
        self._start = os.urandom(9).hex()
        self._next = itertools.count(1).__next__

    def new(self) -> str:
        return f"{self._start}{self._next()}"

    def new_uuid(self) -> str:
        """The same as a random UUID: some servers take nothing else."""
        start = self._start
        return f"{start[:8]}-{start[8:12]}-4{start[12:15]}-8{start[15:]}-{self._next():012x}"

    def of(self, headers: Mapping[bytes, bytes]) -> str:
        """The client's own x-request-id if it is safe in headers and logs, otherwise a new one."""
        given = headers.get(b"x-request-id")
        if given and len(given) <= _LONGEST_ID and all(0x21 <= byte <= 0x7E for byte in given):
            return given.decode("ascii")
        return self.new()


class Priority(IntEnum):
    """The classes, the first one first. In a queue a request rises from class to class with time."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


_NORMAL = Priority.NORMAL  # see berth.canonical.CHAT
_PRIORITIES = {priority.name.lower().encode(): priority for priority in Priority}


def priority(headers: Mapping[bytes, bytes], decided: str = "", most: str = "high") -> Priority:
    """The priority that a rule has decided, else the one that the client requests; `most` that its key allows.
    InvalidRequestError for an unknown one.
    """
    given = headers.get(HEADER)
    found = _NORMAL if given is None else _PRIORITIES.get(given.strip().lower())
    if found is None:
        shown = (given or b"").decode("latin-1")[:40]
        raise InvalidRequestError(f"The header x-priority must be high, normal or low, not {shown!r}.")
    if decided:
        found = Priority[decided.upper()]
    return found if most == "high" else max(found, Priority[most.upper()])


def load_wait_s(headers: Mapping[bytes, bytes]) -> float | None:
    """How long the request waits for a model that is not loaded: 0 with `x-berth-load: no`, else what `x-berth-wait`
    says; None: as the server decides. InvalidRequestError for other values.
    """
    if (given := headers.get(LOAD)) is not None:
        if given.strip().lower() == b"no":
            return 0.0
        raise InvalidRequestError(f"The header x-berth-load must be no, not {given.decode('latin-1')[:40]!r}.")
    if (given := headers.get(WAIT)) is None:
        return None
    match = _DURATION.fullmatch(given.strip().lower())
    seconds = float(match[1]) * _UNITS[match[2]] if match else -1.0
    if not 0 <= seconds <= LONGEST_LOAD_WAIT_S:
        shown = given.decode("latin-1")[:40]
        raise InvalidRequestError(f"The header x-berth-wait must be a duration up to 24h, such as 90s, not {shown!r}.")
    return seconds


def hops(given: bytes) -> int:
    """The value of the header. LoopDetectedError beyond the limit: Berths that are attached to each other would send a
    failing request back and forth until they run out of connections.
    """
    if not given.isdigit():
        raise InvalidRequestError(f"The header x-berth-hops must be a number, not {given.decode('latin-1')[:40]!r}.")
    if len(given) > len(str(MOST_HOPS)) or int(given) > MOST_HOPS:
        raise LoopDetectedError(
            f"The request has passed more than {MOST_HOPS} Berths: some are attached to each other in a circle. "
            "Remove the URL of one of them from BERTH_MODELS of the other.",
            should_retry=False,
        )
    return int(given)

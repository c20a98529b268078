"""Request ids: the client's own, or one that no other worker and no other life of this one gives.

How urgent a request is: the header x-priority.
"""

import itertools
import os
from collections.abc import Mapping
from enum import IntEnum

from berth.errors import InvalidRequestError

_LONGEST = 128


class RequestIds:
    """Counts on from a random start: asking the kernel for each would cost a system call."""

    __slots__ = ("_next", "_start")

    def __init__(self) -> None:
        self._start = os.urandom(9).hex()
        self._next = itertools.count(1).__next__

    def new(self) -> str:
        return f"{self._start}{self._next():06x}"

    def of(self, headers: Mapping[bytes, bytes]) -> str:
        """The client's own x-request-id where it is fit for headers and logs, else a new one."""
        given = headers.get(b"x-request-id")
        if given and len(given) <= _LONGEST and all(0x21 <= byte <= 0x7E for byte in given):
            return given.decode("ascii")
        return self.new()


HEADER = b"x-priority"


class Priority(IntEnum):
    """The classes, the first one first. Within each the oldest request is the next."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


_NAMES = {priority.name.lower().encode(): priority for priority in Priority}


def priority(headers: Mapping[bytes, bytes]) -> Priority:
    """What the client asks for. InvalidRequestError for a word that is none."""
    given = headers.get(HEADER)
    if given is None:
        return Priority.NORMAL
    found = _NAMES.get(given.strip().lower())
    if found is None:
        shown = given.decode("latin-1")[:40]
        raise InvalidRequestError(f"The header x-priority must be high, normal or low, not {shown!r}.")
    return found

"""How urgent a request is: the header x-priority."""

from collections.abc import Mapping
from enum import IntEnum

from berth.errors import InvalidRequestError

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

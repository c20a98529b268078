"""The answer of a request that is sent to another replica too, kept until the two are compared.

A request that is not mirrored has none, and nothing here is called.
"""

from collections.abc import Callable
from typing import Final

MOST_BYTES: Final = 1 << 20  # of an answer


class Mirrored:
    """`room` takes so many bytes of memory, and says whether there were as many."""

    __slots__ = ("_room", "at", "frames", "held_bytes", "is_large", "is_refused", "shadow")

    def __init__(self, shadow: str, at: int, room: Callable[[int], bool]) -> None:
        self.shadow = shadow  # its id
        self.at = at  # where its model's counts are
        self._room = room
        self.frames = bytearray()  # canonical: of a stream, or a whole body
        self.held_bytes = 0
        self.is_large = False
        self.is_refused = False  # there was no memory for it

    def begin(self) -> "Mirrored":
        """A replica begins to answer. What another one said before is not the answer."""
        self.frames.clear()
        return self

    def add(self, data: bytes) -> None:
        size = len(data)
        if self.is_large or self.is_refused:
            return
        if len(self.frames) + size > MOST_BYTES:
            self.is_large = True
        elif not self._room(size):
            self.is_refused = True
        else:
            self.held_bytes += size
            self.frames += data

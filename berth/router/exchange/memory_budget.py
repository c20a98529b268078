"""The memory that the bodies of all requests of one worker may take together, from their first bytes to their end.

Bodies of up to UNCOUNTED_BYTES are not counted: nearly all are such.
"""

from typing import Final

from berth.errors import OverloadedError
from berth.log import log

UNCOUNTED_BYTES: Final = 16 << 10
_BODIES: Final = 32  # so many of the largest allowed size; 1 GiB by default
_LEAST_BODIES: Final = 5  # however little memory there is: the copies of a single one
_SHARE: Final = 4  # at most this part of the memory
_RETRY_S: Final = 1.0


class MemoryBudget:
    __slots__ = ("_exhausted", "most_bytes", "used_bytes")

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.used_bytes = 0
        self._exhausted = False

    def take(self, size: int) -> None:
        """OverloadedError if that would be more than there is; nothing is taken then."""
        if self.used_bytes + size > self.most_bytes:
            if not self._exhausted:  # once, not for each request that is rejected
                self._exhausted = True
                log.warning("memory for request bodies exhausted", used=self.used_bytes, most=self.most_bytes)
            raise OverloadedError(
                "The requests that this server is receiving and serving take all memory that it has for them.",
                retry_after_s=_RETRY_S,
            )
        self.used_bytes += size

    def give_back(self, size: int) -> None:
        self.used_bytes -= size
        if self.used_bytes < self.most_bytes // 2:
            self._exhausted = False


def budget_bytes(largest_body: int, memory: int, workers: int) -> int:
    """Of one of `workers`, on a machine with `memory` bytes left."""
    return max(_LEAST_BODIES * largest_body, min(_BODIES * largest_body, memory // _SHARE // workers))

"""Free space in the run directory: without it nothing of control's or the router's fails, but logs and stored responses
are lost.
"""

import os

from berth.log import log
from berth.state import FULL_BYTES


class RunDirectory:
    def __init__(self, path: str) -> None:
        self._path = path
        self._full = False

    def free_bytes(self) -> int | None:
        """None if it is unknown. Logs when the directory becomes full, and when it has space again."""
        try:
            file_system = os.statvfs(self._path)
        except OSError:
            return None
        free = file_system.f_bavail * file_system.f_frsize
        if (free < FULL_BYTES) != self._full:
            self._full = not self._full
            if self._full:
                log.warning("run directory full, engine logs and stored responses are lost", path=self._path, free=free)
            else:
                log.info("run directory has space again", path=self._path, free=free)
        return free

"""Whether control has published other API keys: keys.json is read again when it is another file. For all programs that
show clients by their names.
"""

import os

from berth.errors import ControlError
from berth.log import log
from berth.plan import Keys, Plan, read_keys


class KeyPoll:
    def __init__(self, plan: Plan, keys: Keys) -> None:
        self.current = keys
        self.watches = bool(keys.api_keys)
        self._run_dir = plan.paths.run_dir
        self._path = os.fspath(plan.paths.keys)
        self._seen = (0, 0)  # the first time it is read: it may have changed since `keys` was

    def changed(self) -> bool:
        """Whether there are other keys since the last time."""
        try:
            stat = os.stat(self._path)  # noqa: PTH116 - several times a second, for as long as a worker lives
        except OSError:
            return False
        seen = (stat.st_ino, stat.st_mtime_ns)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self.current = read_keys(self._run_dir)
        except ControlError as error:  # they stay what they are
            log.error("API keys unchanged", reason=str(error))
            return False
        return True

"""The API keys' files are read again when they change, and keys.json is replaced: workers follow it.

The reading is done by `berth key read`, in a process of its own. A file that is wrong changes nothing.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from berth.errors import ControlError
from berth.log import log
from berth.plan import ApiKey, Keys, Plan, read_keys
from berth.plan.keys import renewed
from berth.processes import replace_file

POLL_S: Final = 1.0
READ_TIMEOUT_S: Final = 20.0
_LONGEST_REASON: Final = 2000

OnChange = Callable[[str, Mapping[str, str]], None]
Seen = tuple[tuple[int, int, int] | None, ...]


class KeyWatch:
    def __init__(self, plan: Plan, keys: Keys, on_change: OnChange = lambda *_: None) -> None:
        """`on_change` is called with what became of a change, and the names."""
        self._on_change = on_change
        self._plan = plan
        self._files = (
            (plan.keys_file,) if plan.keys_file else tuple(file for key in keys.api_keys for file in key.files)
        )
        self._seen: Seen | None = None
        self.problem = ""  # why the last change has no effect

    async def run(self) -> None:
        """Until it is cancelled."""
        while self._files:
            await self.look()
            await asyncio.sleep(POLL_S)

    async def look(self) -> None:
        """Reads the files if they are not what they were. The first time they are read too: they may have changed while
        there was no control.
        """
        seen = await asyncio.to_thread(identities, self._files)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self.publish(await self.read())
        except (ControlError, OSError, ValueError) as error:
            self.problem = (str(error) or repr(error))[:_LONGEST_REASON]
            log.error("API keys unchanged", files=" ".join(self._files), reason=self.problem)
            self._on_change("rejected", {"reason": self.problem})
        else:
            self.problem = ""

    async def read(self) -> tuple[ApiKey, ...]:
        """ControlError with what is wrong with the files."""
        command = (sys.executable, "-P", "-m", "berth", "key", "read", "--run-dir", self._plan.paths.run_dir)
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                output, errors = await child.communicate()
        except BaseException:
            child.kill()
            raise
        if child.returncode:
            raise ControlError(errors.decode(errors="replace").strip() or f"exit code {child.returncode}")
        return msgspec.json.decode(output, type=tuple[ApiKey, ...])

    def publish(self, found: Sequence[ApiKey]) -> None:
        """ValueError for too many names, OSError when the run directory is full."""
        before = read_keys(self._plan.paths.run_dir)
        keys, retired = renewed(before.api_keys, before.retired, found, self._plan.limits.key_slots)
        if keys == before.api_keys:
            return
        write_keys(self._plan, replace(before, api_keys=keys, retired=retired))
        old, new = ({key.name: key for key in some} for some in (before.api_keys, keys))
        changed = [name for name, key in new.items() if name in old and old[name] != key]
        names = {"added": _names(new.keys() - old), "removed": _names(old.keys() - new), "other": _names(changed)}
        log.info("API keys changed", **names)
        self._on_change("changed", names)


def write_keys(plan: Plan, keys: Keys) -> None:
    replace_file(plan.paths.keys, keys.to_json(), mode=0o600)


def _names(names: Sequence[str] | set[str]) -> str:
    return " ".join(sorted(names)) or "-"


def identities(files: Sequence[str]) -> Seen:
    """By what one version of a file differs from another; None for a file that is not there."""
    found: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            stat = Path(file).stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)

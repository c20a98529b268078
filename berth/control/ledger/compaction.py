"""The files of months that are over, rewritten with one line for each hour, client and model.

A file is replaced in one step by another that says the same. Killed in between, control finds either of them at its
next start, and begins again. What a newer Berth has written is left as it is.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from berth.ipc.key_counters import Use
from berth.records.usage import USAGE_VERSION, Line, Pair, line_of, parsed

HOURS: Final = "hours"  # in place of a boot
AFTER_S: Final = 86_400.0  # from the end of a month: clocks differ, and what was late has come by then
_HOUR_S: Final = 3600
_MONTHS: Final = "[0-9][0-9][0-9][0-9]-[0-9][0-9].jsonl"


def compact(folder: Path, month: str, owner: str) -> list[str]:
    """The months before this one that were rewritten. `owner` differs between appliances with the same folder. OSError
    when it cannot be written: then nothing has changed.
    """
    for left in folder.glob(f".*.jsonl.{owner}"):  # by a control that was killed
        left.unlink(missing_ok=True)
    files = [file for file in sorted(folder.glob(_MONTHS)) if file.stem < month]
    return [file.stem for file in files if _rewrite(file, file.with_name(f".{file.name}.{owner}"))]


def _rewrite(file: Path, temporary: Path) -> bool:
    """False if there is nothing to do, or the file is being written."""
    before = file.stat()
    data = file.read_bytes()
    if _is_newer(data) or (found := by_hour(parsed(data))) == data:
        return False
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if os.write(descriptor, found) != len(found):
            raise OSError(f"{temporary}: only a part was written")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    now = file.stat()
    if (now.st_ino, now.st_size) != (before.st_ino, before.st_size):
        temporary.unlink()
        return False
    os.replace(temporary, file)  # noqa: PTH105 - next to the other calls of os
    with suppress(OSError):  # some network file systems have no fsync of a folder
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return True


def by_hour(lines: Sequence[Line]) -> bytes:
    """Hours are those of the clock on the wall, so that each is part of one day."""
    sums: dict[tuple[int, Pair], Use] = {}
    last: dict[tuple[int, Pair], int] = {}
    for line in lines:
        offset = datetime.fromtimestamp(line.t).astimezone().utcoffset()
        local = line.t + int(offset.total_seconds() if offset else 0)
        place = (local // _HOUR_S, (line.key, line.model))
        sums[place] = sums.get(place, Use()) + line.use
        last[place] = max(last.get(place, 0), line.t)
    return b"".join(line_of(last[place], HOURS, place[0], place[1], sums[place]) for place in sorted(sums))


def _is_newer(data: bytes) -> bool:
    decode = msgspec.json.Decoder(_Version).decode
    for text in data.splitlines():
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            if decode(text).v > USAGE_VERSION:
                return True
    return False


class _Version(msgspec.Struct):
    v: int = USAGE_VERSION

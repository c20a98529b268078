"""What was changed, by whom, from where: JSON lines in the data directory that are only appended to, and the log.

One line for each change that was requested over control.sock or /admin, with what became of it, and one for the end of
an operation; for each change of the API keys; and for each boot. No prompts, no keys.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from berth.log import log

MOST_BYTES: Final = 10 << 20  # of a file
FILES: Final = 5
AUDIT_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    v: int = AUDIT_VERSION
    t: float  # Unix seconds
    who: str
    origin: str = ""  # the address that it came from; "": this machine
    what: str
    target: str = ""
    result: str
    operation: str = ""  # its id
    details: Mapping[str, str] = field(default_factory=dict)


def path(data_dir: str) -> Path:
    return Path(data_dir, "berth", "audit.jsonl")


def report(entry: Entry) -> None:
    """To the log."""
    shown = {"who": entry.who, "origin": entry.origin, "what": entry.what, "target": entry.target}
    shown |= {"result": entry.result, "operation": entry.operation, **entry.details}
    log.info("audit", **{name: value for name, value in shown.items() if value})


def append(data_dir: str, entry: Entry) -> None:
    """OSError when it cannot be written."""
    file = path(data_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.encode(entry) + b"\n"
    try:
        if file.stat().st_size + len(data) > MOST_BYTES:
            for number in range(FILES - 1, 0, -1):
                older = file if number == 1 else file.with_name(f"{file.name}.{number - 1}")
                if older.exists():
                    older.replace(file.with_name(f"{file.name}.{number}"))
    except FileNotFoundError:
        pass
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last(data_dir: str, count: int) -> list[Entry]:
    """The newest entries, the newest last. What cannot be read is left out."""
    found: list[Entry] = []
    file = path(data_dir)
    for name in (file, *(file.with_name(f"{file.name}.{number}") for number in range(1, FILES))):
        if len(found) >= count or not name.exists():
            break
        entries = []
        for text in name.read_bytes().splitlines():
            try:
                entry = msgspec.json.decode(text, type=Entry)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            if entry.v <= AUDIT_VERSION:
                entries.append(entry)
        found = entries + found
    return found[-count:] if count else []

"""The history of the models' revisions: one file in the data directory, a JSON line for each revision.

Boot adds what BERTH_MODELS changes, control what migrations change; never both at once. Nothing in it is needed to
serve: lines that cannot be read are reported and ignored, and the file of a newer Berth is not touched. The file is
replaced as a whole and synchronised, so that a crash leaves the old history or the new one.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from berth.plan import REVISION_VERSION, Revision, RevisionState
from berth.processes import replace_file

MOST: Final = 20  # of one model; the oldest are dropped
LARGEST_FILE: Final = 4 << 20
_KEY_BYTES: Final = 32
_DIGEST_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The contents of the file, the oldest revision first."""

    revisions: tuple[Revision, ...] = ()
    problem: str = ""  # what is ignored, and why
    newer: bool = False  # another version wrote it: it must not be replaced
    key: bytes = b""  # of the digests of secrets, which is in no revision

    def of(self, model: str) -> tuple[Revision, ...]:
        return tuple(one for one in self.revisions if one.model == model)

    def promoted(self, model: str) -> Revision | None:
        """The newest one that was promoted."""
        return next((one for one in reversed(self.of(model)) if one.state is RevisionState.PROMOTED), None)

    def next_number(self, model: str) -> int:
        return max((one.number for one in self.of(model)), default=0) + 1


def path(data_dir: str) -> Path:
    return Path(data_dir, "berth", "revisions.jsonl")


def read(data_dir: str) -> History:
    """Of what the file holds, all that is sound."""
    file, key = path(data_dir), _key(data_dir)
    try:
        with file.open("rb") as opened:
            data = opened.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        return History(key=key)
    except OSError as error:
        return History(problem=f"{str(file)!r} cannot be read: {error.strerror}", key=key)
    if len(data) > LARGEST_FILE:
        return History(problem=f"{str(file)!r} has more than {LARGEST_FILE >> 20} MiB, and is none of Berth's", key=key)
    found, bad = [], 0
    for line in data.splitlines():
        try:
            revision = msgspec.json.decode(line, type=Revision)
        except (ValueError, RecursionError):
            bad += 1
            continue
        if revision.v > REVISION_VERSION:
            newer = f"{str(file)!r} was written by a newer Berth (version {revision.v})"
            return History(problem=newer, newer=True, key=key)
        found.append(revision)
    problem = f"{str(file)!r} has {bad} damaged {'line' if bad == 1 else 'lines'}" if bad else ""
    return History(revisions=tuple(found), problem=problem, key=key)


def keep(data_dir: str, *revisions: Revision) -> None:
    """Adds revisions, in place of those with the same numbers. They are on the disk when this returns. OSError where
    the file cannot be written; ValueError where it must not be.
    """
    before = read(data_dir)
    if before.newer:
        raise ValueError(before.problem)
    new = {(one.model, one.number) for one in revisions}
    content = _newest([*(one for one in before.revisions if (one.model, one.number) not in new), *revisions])
    file = path(data_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, b"".join(msgspec.json.encode(one) + b"\n" for one in content), durable=True)


def make_key(data_dir: str) -> None:
    """The key of the digests, once. OSError where it cannot be written."""
    file = _key_file(data_dir)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, secrets.token_bytes(_KEY_BYTES), mode=0o600)


def digest(key: bytes, text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES, key=key).hexdigest()


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """By field, its text in both; "": it is not set."""
    fields = dict.fromkeys([*before, *after])
    pairs = ((field, before.get(field, ""), after.get(field, "")) for field in fields)
    return [(field, old, new) for field, old, new in pairs if old != new]


def _newest(revisions: Iterable[Revision]) -> list[Revision]:
    """Of each model the newest, and in any case the one that was promoted last."""
    history = History(revisions=tuple(sorted(revisions, key=lambda one: one.number)))
    kept = []
    for model in dict.fromkeys(one.model for one in history.revisions):
        own, promoted = history.of(model), history.promoted(model)
        kept += [one for one in own[:-MOST] if one is promoted] + list(own[-MOST:])
    return kept


def _key_file(data_dir: str) -> Path:
    return Path(data_dir, "berth", "key")


def _key(data_dir: str) -> bytes:
    """b"" where there is none: then nothing was kept with it either."""
    try:
        descriptor = os.open(_key_file(data_dir), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _KEY_BYTES)
    except OSError:  # a folder
        return b""
    finally:
        os.close(descriptor)

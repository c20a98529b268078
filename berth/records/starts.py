"""How long engines took until they were ready: control keeps it, and who says how long a start still takes reads it.

One file in the data directory, written by control alone. Nothing in it is needed to serve: what cannot be read counts
as unknown, and the file of a newer Berth is not touched. What is said is the median of the last KEPT starts, so that
one slow disk or one full cache counts for little.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median

import msgspec

from berth.plan import EngineName, Replica
from berth.processes import replace_file
from berth.records.rows import read_rows

STARTS_VERSION = 1
KEPT = 5  # starts of one kind
MOST = 500  # kinds; those that started longest ago are dropped
MOST_PHASES = 20
LONGEST_S = 7 * 86_400.0  # more is a mistake


class How(StrEnum):
    COLD = "cold"  # its process is started
    FORKED = "forked"  # the same, from a process that has imported the engine
    WAKE_1 = "wake_1"  # its weights are in RAM
    WAKE_2 = "wake_2"  # it reads its weights again


@dataclass(frozen=True, slots=True, kw_only=True)
class StartKind:
    """What the time depends on. A start counts for those in which all of it is equal."""

    model: str  # the public name
    engine: EngineName
    how: How
    of: str  # a digest of the weights and, where they are known, of the engine's version, the GPUs and the arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    at: int  # Unix seconds, when it was ready
    seconds: float
    phases: Mapping[str, float] = field(default_factory=dict)  # seconds of each, in their order; of a cold start only

    @property
    def sound(self) -> bool:
        """A file may hold anything."""
        return len(self.phases) <= MOST_PHASES and all(
            0 <= one <= LONGEST_S for one in (self.seconds, *self.phases.values())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Starts:
    """The contents of the file."""

    starts: Mapping[StartKind, tuple[Start, ...]] = field(default_factory=dict)  # the newest last, of each kind too
    problem: str = ""  # why the file is ignored
    newer: bool = False  # another version wrote it: it must not be replaced

    def seconds(self, kind: StartKind) -> float | None:
        """How long a start of this kind takes. None: there was none yet."""
        known = self.starts.get(kind)
        return round(median(one.seconds for one in known), 2) if known else None

    def phases(self, kind: StartKind) -> Mapping[str, float]:
        """The seconds of each phase, those of the last start in their order."""
        known = self.starts.get(kind, ())
        names = known[-1].phases if known else ()
        return {name: round(median(one.phases[name] for one in known if name in one.phases), 2) for name in names}

    def with_start(self, kind: StartKind, start: Start) -> "Starts":
        others = {one: starts for one, starts in self.starts.items() if one != kind}
        newest = dict(list(others.items())[-(MOST - 1) :])
        return Starts(
            starts={**newest, kind: (*self.starts.get(kind, ()), start)[-KEPT:]}, problem=self.problem, newer=self.newer
        )


def start_kind(phases: Collection[str]) -> How:
    """Of a start with these phases. A fork that was of no use is followed by a start without it."""
    return How.FORKED if "fork" in phases and "import" not in phases else How.COLD


def kind_of(replica: Replica, how: How) -> StartKind:
    known = msgspec.json.encode(replica.measured_as) if replica.measured_as else replica.weights.encode()
    digest = hashlib.sha256(known).hexdigest()[:16]
    return StartKind(model=replica.model, engine=replica.engine, how=how, of=digest)


def path(data_dir: str) -> Path:
    return Path(data_dir, "berth", "starts.json")


def read(data_dir: str) -> Starts:
    """Of what the file holds, all that is sound."""
    rows, problem, newer = read_rows(path(data_dir), "starts", STARTS_VERSION)
    found = {}
    for row in rows:
        try:
            one = msgspec.convert(row, _Row)
        except (ValueError, RecursionError):
            continue
        if starts := tuple(start for start in one.starts if start.sound)[-KEPT:]:
            found[one.of] = starts
    return Starts(starts=found, problem=problem, newer=newer)


def write(data_dir: str, starts: Starts) -> None:
    """OSError where the file cannot be written. That of a newer Berth is left as it is."""
    if starts.newer:
        return
    rows = [_Row(of=kind, starts=some) for kind, some in starts.starts.items()]
    file = path(data_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, msgspec.json.format(msgspec.json.encode({"version": STARTS_VERSION, "starts": rows}), indent=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    of: StartKind
    starts: tuple[Start, ...]

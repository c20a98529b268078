"""What control asks of `berth.boot.revise`, which plans a model with other arguments, options or another source.

Only boot's code can plan. It runs in a process of its own, which reads one JSON document and writes one. Its reply is
kept in the run directory as long as the migration may need it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from berth.plan import ModelRoute, Replica, RunPaths

LONGEST_S = 60.0  # for the metadata of another source, from the hub


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    model: str
    replica: str  # whose arguments `set` means
    before: tuple[str, ...] = ()  # the changes of the revision that it starts from
    set: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revised:
    """A model as it would be planned."""

    wanted: Wanted | None = None  # what it is the reply to
    error: str = ""  # why it cannot be; then nothing else is set
    changes: tuple[str, ...] = ()  # all of them, of the entry in BERTH_MODELS
    says: Mapping[str, str] = field(default_factory=dict)  # as in a revision
    engines: tuple[str, ...] = ()  # the names of its engines, in the order in which Berth started
    route: ModelRoute | None = None
    replicas: tuple[Replica, ...] = ()  # those that Berth starts


@dataclass(frozen=True, slots=True, kw_only=True)
class Dress:
    """What a model is before and after a migration."""

    before: Revised
    after: Revised


def dress_path(paths: RunPaths, replica: str) -> Path:
    """Of a migration to this replica. There is one at a time."""
    return Path(paths.run_dir, f"{replica}.revised.json")

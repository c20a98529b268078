"""One revision of a model: what serves it, since when and why. `berth.records.revisions` keeps the history."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

REVISION_VERSION = 2  # of a revision with changes; an older Berth would start it without them


class Author(StrEnum):
    ENV = "env"  # BERTH_MODELS says so
    MIGRATE = "migrate"
    ROLLBACK = "rollback"


class RevisionState(StrEnum):
    PROMOTED = "promoted"  # it serves, or did until a newer one was promoted
    REJECTED = "rejected"  # a migration to it was rolled back


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """It holds no secret: values of variables and keys of engines are in `says` as keyed digests."""

    v: int = 1
    model: str
    number: int
    at: int  # Unix seconds
    by: Author
    base: str  # digest of what BERTH_MODELS says about the model: with another one, BERTH_MODELS wins
    order: tuple[int, ...]  # its engines in fallback order, by their places in BERTH_MODELS
    engines: tuple[str, ...] = ()  # their names, in this order
    says: Mapping[str, str]  # what is configured, by field; engines in their order
    versions: Mapping[str, str] = field(default_factory=dict)  # of the engines
    state: RevisionState = RevisionState.PROMOTED
    reason: str = ""
    operation: str = ""  # the id of the migration
    # What a migration has changed in the entry of BERTH_MODELS: "context=32768", "engines[1].args=--max-num-seqs 64".
    changes: tuple[str, ...] = ()

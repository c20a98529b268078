"""A shadow's state machine: pure. Starting (where Berth starts the candidate for it) -> mirroring -> ending -> over.

A candidate that stands already is used as it is, and nothing is done to it. One that is at rest is started like that of
a migration, serves no clients, and is put to rest again in the end. A candidate that fails while requests are mirrored
is restarted as any replica is; until then shadows are skipped. One that is given up ends its shadow.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from berth.control.decisions.migrations import AT_REST, to_standby
from berth.control.decisions.records import GIVEN_UP, Record, Transition
from berth.control.decisions.restart_policy import History
from berth.ipc.migration import Migration, Phase
from berth.ipc.operations import Operation
from berth.ipc.shadow import Counts, Mirror, Shadow, ShadowOptions, ShadowPhase
from berth.state import ReplicaStatus

_S = ReplicaStatus
_P = ShadowPhase
_STARTS: Final = frozenset({_S.STANDBY, _S.UNLOADED})
STOPPED_BY: Final = "stopped by "


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the next phase depends on."""

    candidate: Record
    starts: int  # of the candidate, when the shadow was requested
    counts: Counts  # of the model
    is_last: bool  # every other replica of the model is given up
    aware: bool  # every router worker knows that nothing is mirrored any more, and has counted what was on its way


def advance(shadow: Shadow, view: View, now: float) -> Shadow:
    """The shadow as it is from now on; the same one if nothing changes."""
    candidate, counts = view.candidate, view.counts
    name, status, begun = candidate.replica.name, candidate.status, candidate.starts > view.starts
    given_up = status in GIVEN_UP and (begun or not shadow.starts)
    if shadow.starts and view.is_last and shadow.phase is not _P.ENDING:
        latest = replace(shadow, now=counts if shadow.is_on else (), starts=False)
        return ended(latest, f"{name} serves: the model's other replicas were given up", now)
    after = replace(shadow, now=counts) if shadow.is_on else shadow
    match shadow.phase:
        case _P.STARTING if given_up or (status is _S.BACKOFF and begun):
            after = ended(after, f"{name} is {status}: {candidate.reason}", now, failed=True)
        case _P.STARTING if status is _S.READY:
            after = replace(after, phase=_P.MIRRORING, since=now, before=counts, now=counts)
        case _P.MIRRORING if given_up:
            after = ended(after, f"{name} is {status}: {candidate.reason}", now, failed=True)
        case _P.MIRRORING if now - shadow.since >= shadow.options.for_s:
            after = ended(after, "", now)
        case _P.ENDING if view.aware:
            at_rest = not shadow.starts or (status in AT_REST and candidate.cleaned_up)
            seen = counts if shadow.before else ()
            after = replace(after, now=seen, phase=_P.OVER if at_rest else _P.ENDING)
        case _:
            pass
    return after


def ended(shadow: Shadow, reason: str, now: float, *, failed: bool = False) -> Shadow:
    """From now on nothing more is mirrored. The same one if that is so already."""
    if shadow.phase in (_P.ENDING, _P.OVER):
        return shadow
    return replace(shadow, phase=_P.ENDING, since=now, reason=reason, failed=failed)


def step(record: Record, operation: Operation, now: float) -> Transition | None:
    """What the shadow does with its candidate now, where Berth starts that for it."""
    shadow, name, status = operation.shadow, record.replica.name, record.status
    if shadow is None or not shadow.starts or shadow.phase is _P.OVER:
        return None
    reason, found = f"shadow of {operation.model}", None
    if shadow.phase is not _P.ENDING:
        if status in _STARTS:
            found = Transition(name=name, to=_S.WAITING, reason=reason)
        elif status in GIVEN_UP and operation.starts.get(name) == record.starts:
            found = Transition(name=name, to=_S.WAITING, reason=reason, history=History())
    else:
        found = to_standby(record, reason, now + operation.drain_s)
    return found


def hidden(operations: Iterable[Operation]) -> frozenset[str]:
    """The candidates that run for a shadow alone: clients' requests are not sent to them."""
    return frozenset(one.shadow.candidate for one in operations if one.shadow is not None and one.shadow.starts)


def mirrors(operations: Iterable[Operation], ready: frozenset[str], offset_s: float) -> tuple[Mirror, ...]:
    """For the routers. `ready`: the replicas that take requests; `offset_s`: from monotonic time to Unix seconds."""
    return tuple(
        Mirror(
            id=one.id,
            model=one.model,
            replica=shadow.candidate,
            share=shadow.options.share,
            ready=shadow.candidate in ready,
            ends=round(shadow.since + shadow.options.for_s + offset_s, 1),
            before=shadow.before,
        )
        for one in operations
        if (shadow := one.shadow or of_migration(one)) is not None and shadow.is_on
    )


def of_migration(operation: Operation) -> Shadow | None:
    """While it compares its candidate's answers."""
    migration = operation.migration
    return migration.shadow if migration is not None and migration.phase is Phase.SHADOWING else None


def counted(migration: Migration, counts: Counts) -> Migration:
    """The migration with what has been counted; its comparison begins with the first call."""
    if migration.phase is not Phase.SHADOWING:
        return migration
    options = ShadowOptions(to=migration.candidate, share=migration.options.shadow, for_s=migration.options.step_s)
    begun = Shadow(
        options=options, candidate=migration.candidate, phase=_P.MIRRORING, since=migration.since, before=counts
    )
    return replace(migration, shadow=replace(migration.shadow or begun, now=counts))

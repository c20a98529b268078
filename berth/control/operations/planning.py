"""What a migration would be: which replica replaces which, whether both have room, and how long requests would be
queued where they have not; pure.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from berth.control.decisions.migrations import rested
from berth.control.decisions.records import COMING, LIVE, Observation, Record
from berth.control.operations import denials
from berth.control.operations.targets import Around, target
from berth.ipc.migration import Counts, How, Migration, Phase
from berth.ipc.operations import Change, Denial, DenialCode
from berth.ipc.revising import Revised, Wanted
from berth.plan import Author, ModelRoute, Standby
from berth.room import ASLEEP_BYTES
from berth.state import ReplicaStatus
from berth.units import size

_S = ReplicaStatus
QUEUE_SHARE: Final = 0.8  # of the queue, that a predicted hold may fill
UNKNOWN_START_S: Final = 60.0  # of an engine that has not been started here
WAKE_S: Final = 10.0  # of one that sleeps
CHECK_S: Final = 3.0


class Pair(NamedTuple):
    stable: Record
    candidate: Record


def wanted(change: Change, observation: Observation, around: Around) -> Wanted | None:
    """What is to be planned before the migration can be; None: nothing, or it is denied anyway."""
    route, options = denials.route_of(change.model, observation), change.migrate
    if route is None or options is None:
        return None
    aim, now = target(route, options, around, observation), around.history.promoted(route.name)
    if aim.error or not (options.changes or (now is not None and now.changes != aim.changes)):
        return None
    return Wanted(model=route.name, replica=aim.candidate, before=aim.changes, set=options.set, source=options.source)


def migration(change: Change, observation: Observation, around: Around, now: float) -> Migration | Denial:
    route = denials.route_of(change.model, observation)
    if route is None or change.migrate is None:
        return denials.unknown_model(change.model, observation)
    options, records = change.migrate, {one.replica.name: one for one in observation.records}
    aim, needed = target(route, options, around, observation), wanted(change, observation, around)
    revised = around.revised if needed is not None else None
    candidate = as_revised(records[aim.candidate or route.replicas[0]], revised)
    pair = Pair(candidate if route.standby is Standby.HOT else records[route.replicas[0]], candidate)
    if text := aim.error or unready(pair, around) or unrevised(route, pair, needed, around):
        return Denial(code=DenialCode.MIGRATION, message=text)
    crowded = misfit(route, pair, observation, around)
    if options.how is How.BOTH and crowded:
        advice = "`--how swap` queues requests meanwhile"
        return Denial(code=DenialCode.NO_ROOM, message=f"There is no room for both: {crowded}. {advice}.")
    how = options.how if options.how is not How.AUTO else How.SWAP if crowded else How.BOTH
    rolling = any(one.status is _S.READY and one.replica.name != aim.candidate for one in served(route, records))
    holds = how is How.SWAP and not rolling
    if holds and (text := unbearable(route, pair, change, around)):
        return Denial(code=DenialCode.HOLD, message=text)
    return Migration(
        options=options,
        how=how,
        candidate=aim.candidate,
        stable=pair.stable.replica.name,
        before=route.replicas,
        after=promoted_order(route, pair),
        revision=around.history.next_number(route.name),
        by=Author.ROLLBACK if options.rolls_back else Author.MIGRATE,
        phase=Phase.HOLDING if how is How.SWAP else Phase.STARTING,
        since=now,
        hold_since=now if holds else 0.0,
        hold_s=hold_s(pair, around, change.drain_s) if holds else 0.0,
        rolling=rolling,
        changes=revised.changes if revised else aim.changes,
        revised=revised is not None,
        sleeps=how is How.SWAP and may_sleep(route, pair, observation, around),
        other=around.usual if how is How.SWAP else Counts(),
    )


def served(route: ModelRoute, records: Mapping[str, Record]) -> list[Record]:
    """Those that serve at the same time."""
    return [records[name] for name in route.replicas] if route.standby is Standby.HOT else []


def promoted_order(route: ModelRoute, pair: Pair) -> tuple[str, ...]:
    """The model's replicas once it is promoted: of those that all serve, none gets in front of another."""
    first = route.replicas[0] if route.standby is Standby.HOT else pair.candidate.replica.name
    return (first, *(name for name in route.replicas if name != first))


def hold_s(pair: Pair, around: Around, drain_s: float) -> float:
    """For how long requests would be queued: the running ones end, and the other engine starts."""
    start_s = pair.candidate.load_s or pair.stable.load_s or UNKNOWN_START_S
    if pair.candidate.status is _S.ASLEEP:
        start_s = WAKE_S
    return min(around.longest_s, drain_s) + start_s + CHECK_S


def as_revised(record: Record, revised: Revised | None) -> Record:
    """With the command line and the memory that it would have."""
    replicas = revised.replicas if revised is not None else ()
    return replace(record, replica=next((one for one in replicas if one.name == record.replica.name), record.replica))


def unrevised(route: ModelRoute, pair: Pair, needed: Wanted | None, around: Around) -> str:
    """Why the model cannot become what is wanted of it; "": it can, or nothing of it changes."""
    revised, now, text = around.revised, around.history.promoted(route.name), ""
    if needed is None:
        return ""
    if revised is None or revised.wanted != needed:
        text = f"{route.name!r} has changed meanwhile: request it again."
    elif revised.error or revised.route is None:
        text = f"{route.name!r} cannot be planned so: {revised.error or 'no reply'}"
    elif revised.route.room != route.room:
        text = f"{route.name!r} would take other room: change BERTH_MODELS, and restart Berth."
    elif pair.stable.replica.ranks is not None:
        text = f"{route.name!r} runs on several boxes: change BERTH_MODELS on each of them, and restart Berth."
    elif pair.candidate.replica.name == pair.stable.replica.name and now is not None and revised.changes == now.changes:
        text = f"Nothing would change: {route.name!r} is served so already."
    return text


def unready(pair: Pair, around: Around) -> str:
    """Why the migration cannot begin now; "": it can."""
    stable, candidate = pair
    if stable.attached or candidate.attached:
        return "Attached servers run elsewhere: Berth migrates between engines that it starts."
    if around.unwritable:
        return f"No revision can be kept: {around.unwritable}"
    if stable.status is not _S.READY:
        return f"{stable.replica.name} does not serve ({stable.status}): there is nothing to migrate from."
    is_asleep = candidate.status is _S.ASLEEP and candidate.goal is None  # a warm standby
    if candidate.replica.name != stable.replica.name and not (rested(candidate) or is_asleep):
        return f"{candidate.replica.name} is {candidate.status}. Try again when it is at rest."
    return ""


def misfit(route: ModelRoute, pair: Pair, observation: Observation, around: Around) -> str:
    """Why the candidate has no room next to all that runs; "": it has."""
    candidate = pair.candidate
    if candidate.replica.name == pair.stable.replica.name:
        kind = candidate.replica.kind
        advice = f"for a place next to it name the engine twice, `engines: [{kind}, {kind}]`, and restart"
        return f"{candidate.replica.name} serves, and changes itself; {advice}"
    replica, memory = candidate.replica, candidate.replica.memory
    if route.standby is Standby.WARM:
        return f"{replica.name} is a warm standby, which serves when {pair.stable.replica.name} does not"
    if not replica.gpus:
        needed = memory.total_bytes if memory else 0
        free = around.ram_free_bytes
        return f"{replica.name} needs {size(needed)} of RAM, and {size(free)} are free" if needed > free else ""
    for gpu in replica.gpus:
        others = [
            one.replica
            for one in observation.records
            if gpu in one.replica.gpus and (one.status in LIVE or one.status in COMING)
        ]
        taken = sum(one.memory_fraction or 1.0 for one in others)
        if taken + (replica.memory_fraction or 1.0) > 1:
            names = ", ".join(one.name for one in others)
            needs = f"{replica.name} needs {replica.memory_fraction or 1:.0%} of GPU {gpu}"
            return f"{needs}, and {names} {'has' if len(others) == 1 else 'have'} {taken:.0%}"
    return ""


def may_sleep(route: ModelRoute, pair: Pair, observation: Observation, around: Around) -> bool:
    """The engine before can sleep, and what it keeps then has room next to the candidate. On GPUs that models share
    which are loaded on request, the plan has no place for it.
    """
    stable, candidate = pair
    is_other = candidate.replica.name != stable.replica.name
    if not is_other or route.room or stable.replica.sleep is None or stable.cannot_sleep:
        return False
    memory = candidate.replica.memory
    if not candidate.replica.gpus:  # where sleep releases nothing
        return (memory.total_bytes if memory else 0) <= around.ram_free_bytes
    for gpu in candidate.replica.gpus:
        held = stable.gpu.residue.get(gpu, ASLEEP_BYTES) / observation.gpu_bytes.get(gpu, 1)
        others = (
            one.replica.memory_fraction or 1.0
            for one in observation.records
            if gpu in one.replica.gpus and one.status in LIVE and one not in pair and one.status is not _S.ASLEEP
        )
        if held + sum(others) + (candidate.replica.memory_fraction or 1.0) > 1:
            return False
    return True


def unbearable(route: ModelRoute, pair: Pair, change: Change, around: Around) -> str:
    """Why the queue cannot carry the requests meanwhile; "": it can."""
    hold, limit = hold_s(pair, around, change.drain_s), change.migrate.hold_s if change.migrate else 0.0
    known = "as a start took the last time" if pair.candidate.load_s or pair.stable.load_s else "a guess"
    prediction = f"Requests of {route.name!r} would be queued for about {hold:.0f} s ({known})"
    if hold > limit:
        return f"{prediction}, and {limit:g} s are allowed: `--hold {hold:.0f}` allows it."
    queued = hold * around.requests_per_s
    if queued > QUEUE_SHARE * around.queue_size:
        rate = f"{around.requests_per_s:.1f} requests/s make {queued:.0f}"
        ways = "set BERTH_QUEUE_SIZE, or migrate at a quieter time"
        return f"{prediction}: {rate}, and the queue of {around.queue_size} may be filled to {QUEUE_SHARE:.0%}: {ways}."
    return ""

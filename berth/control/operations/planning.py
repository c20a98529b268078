"""What a migration would be: which replica replaces which, whether both have room, and how long requests would be
queued where they have not; pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from berth.control.decisions.migrations import AT_REST
from berth.control.decisions.records import COMING, LIVE, Observation, Record
from berth.control.operations import denials
from berth.ipc.migration import How, Migration, Options, Phase
from berth.ipc.operations import Change, Denial, DenialCode
from berth.ipc.shadow import Counts
from berth.plan import Author, ModelRoute, RevisionState, Standby
from berth.records.revisions import History
from berth.state import ReplicaStatus
from berth.units import size

_S = ReplicaStatus
QUEUE_SHARE: Final = 0.8  # of the queue, that a predicted hold may fill
UNKNOWN_START_S: Final = 60.0  # of an engine that has not been started here
CHECK_S: Final = 3.0


class Pair(NamedTuple):
    stable: Record
    candidate: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What a plan depends on besides the replicas."""

    ram_free_bytes: int = 1 << 62
    requests_per_s: float = 0.0  # of the model, in the last minute
    longest_s: float = 0.0  # the longest of those requests
    queue_size: int = 256
    history: History = field(default_factory=History)
    places: Mapping[str, int] = field(default_factory=dict)  # of the replicas' engines in BERTH_MODELS
    unwritable: str = ""  # why no revision can be kept
    counts: Counts = ()  # of the model's shadows so far


def migration(change: Change, observation: Observation, around: Around, now: float) -> Migration | Denial:
    route = denials.route_of(change.model, observation)
    if route is None or change.migrate is None:
        return denials.unknown_model(change.model, observation)
    options, records = change.migrate, {one.replica.name: one for one in observation.records}
    candidate, text = "", unsuited(route, options)
    if not text:
        candidate, text = target(route, options, around, records)
    pair = Pair(records[route.replicas[0]], records[candidate or route.replicas[0]])
    if text := text or unready(pair, around):
        return Denial(code=DenialCode.MIGRATION, message=text)
    crowded = misfit(pair.candidate, observation, around)
    if options.how is How.BOTH and crowded:
        advice = "`--how swap` queues requests meanwhile"
        return Denial(code=DenialCode.NO_ROOM, message=f"There is no room for both: {crowded}. {advice}.")
    how = options.how if options.how is not How.AUTO else How.SWAP if crowded else How.BOTH
    if how is How.SWAP and (text := unbearable(route, pair, change, around)):
        return Denial(code=DenialCode.HOLD, message=text)
    return Migration(
        options=options,
        how=how,
        candidate=candidate,
        stable=route.replicas[0],
        before=route.replicas,
        after=(candidate, *(name for name in route.replicas if name != candidate)),
        revision=around.history.next_number(route.name),
        by=Author.MIGRATE if options.to else Author.ROLLBACK,
        phase=Phase.HOLDING if how is How.SWAP else Phase.STARTING,
        since=now,
        hold_since=now if how is How.SWAP else 0.0,
        hold_s=hold_s(pair, around, change.drain_s) if how is How.SWAP else 0.0,
    )


def hold_s(pair: Pair, around: Around, drain_s: float) -> float:
    """For how long requests would be queued: the running ones end, and the other engine starts."""
    start_s = pair.candidate.load_s or pair.stable.load_s or UNKNOWN_START_S
    return min(around.longest_s, drain_s) + start_s + CHECK_S


def unsuited(route: ModelRoute, options: Options) -> str:
    """Why the model cannot be migrated, whatever runs; "": it can."""
    steps, text = options.steps, ""
    if len(route.replicas) < 2:
        text = (
            f"Model {route.name!r} has one engine. Name both in BERTH_MODELS, `engines: [vllm, sglang]`, and restart."
        )
    elif route.standby is not Standby.COLD:
        text = f"The engines of {route.name!r} are {route.standby} standbys: migrations need `standby: cold`."
    elif not steps or list(steps) != sorted(set(steps)) or not 0 < steps[0] <= steps[-1] <= 100:
        text = f"steps must be percentages that grow, up to 100, such as 1,5,25,100: not {', '.join(map(str, steps))}."
    elif not 0 <= options.shadow <= 1:
        text = f"shadow must be a share from 0 to 1, and is {options.shadow:g}: `--shadow 10%` is 0.1."
    elif min(options.step_s, options.keep_s, options.hold_s, options.step_requests) < 0:
        text = "step_s, step_requests, keep_s and hold_s must not be negative."
    return text


def target(route: ModelRoute, options: Options, around: Around, records: Mapping[str, Record]) -> tuple[str, str]:
    """The replica to migrate to, or why there is none."""
    serves = route.replicas[0]
    if not options.to:
        return earlier(route, options, around)
    replicas = [records[name].replica for name in route.replicas]
    matching = [
        one.name for one in replicas if options.to in (one.name, one.engine, one.dialect, f"{one.engine}:{one.dialect}")
    ]
    chosen = next((name for name in matching if name != serves), "")
    if matching and not chosen:
        return "", f"{route.name!r} is served by {serves} already."
    if not matching:
        known = ", ".join(f"{name} ({records[name].replica.kind})" for name in route.replicas)
        return (
            "",
            f"{route.name!r} has no engine {options.to!r}. It has: {known}. Others need BERTH_MODELS and a restart.",
        )
    return chosen, ""


def earlier(route: ModelRoute, options: Options, around: Around) -> tuple[str, str]:
    """Of a rollback: what served before, as far as BERTH_MODELS is still what it was then."""
    history, places = around.history, around.places
    now = history.promoted(route.name)
    past = [one for one in history.of(route.name) if one.state is RevisionState.PROMOTED and one != now]
    wanted = [one for one in past if one.number == options.revision] if options.revision else past[-1:]
    if now is None or not wanted:
        kept = ", ".join(str(one.number) for one in past) or "none"
        text = f"{route.name!r} has no such revision that was promoted before. Kept: {kept}."
        return "", f"{text} `berth revisions {route.name}` shows all."
    (revision,) = wanted
    name = next((name for name in route.replicas if revision.order and places.get(name) == revision.order[0]), "")
    if revision.base != now.base or not name:
        shown = f"`berth diff {route.name} {now.number} {revision.number}` shows the difference"
        return "", f"Revision {revision.number} comes from another BERTH_MODELS. {shown}: write it there, and restart."
    if name == route.replicas[0]:
        return "", f"{route.name!r} is served by {name} already."
    return name, ""


def unready(pair: Pair, around: Around) -> str:
    """Why the migration cannot begin now; "": it can."""
    stable, candidate = pair
    if stable.attached or candidate.attached:
        return "Attached servers run elsewhere: Berth migrates between engines that it starts."
    if around.unwritable:
        return f"No revision can be kept: {around.unwritable}"
    if stable.status is not _S.READY:
        return f"{stable.replica.name} does not serve ({stable.status}): there is nothing to migrate from."
    if candidate.status not in AT_REST or not candidate.cleaned_up:
        return f"{candidate.replica.name} is {candidate.status}. Try again when it is at rest."
    return ""


def misfit(candidate: Record, observation: Observation, around: Around) -> str:
    """Why the candidate has no room next to all that runs; "": it has."""
    replica, memory = candidate.replica, candidate.replica.memory
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

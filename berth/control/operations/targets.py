"""Which replica a migration is to: as it is requested, or as the revision before has it; pure."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from berth.control.decisions.migrations import rested
from berth.control.decisions.records import Observation, Record
from berth.ipc import migration as migrating
from berth.ipc.migration import Options
from berth.ipc.revising import Revised
from berth.ipc.shadow import Counts
from berth.plan import ModelRoute, RevisionState, Standby
from berth.records.revisions import History

LONGEST_SET: Final = 1000  # characters
_ENGINE: Final = re.compile(r"([a-z]+(?::[a-z]+)?)\.args\+?=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What a plan depends on besides the replicas."""

    ram_free_bytes: int = 1 << 62
    requests_per_s: float = 0.0  # of the model, in the last minute
    longest_s: float = 0.0  # the longest of those requests
    queue_size: int = 256
    usual: migrating.Counts = field(default_factory=migrating.Counts)  # of the model in the last minutes
    history: History = field(default_factory=History)
    places: Mapping[str, int] = field(default_factory=dict)  # of the replicas' engines in BERTH_MODELS
    unwritable: str = ""  # why no revision can be kept
    revised: Revised | None = None  # the model as it would be planned, where that differs
    counts: Counts = ()  # of the model's shadows so far


class Aim(NamedTuple):
    """The replica that a migration is to, and the changes of BERTH_MODELS that it starts from; or why there is none."""

    candidate: str
    changes: tuple[str, ...] = ()
    error: str = ""


def only_args(options: Options) -> bool:
    return (
        bool(options.set) and not options.source and all(re.match(r"[a-z:]*\.?args\+?=", text) for text in options.set)
    )


def unsuited(route: ModelRoute, options: Options, around: Around) -> str:
    """Why the model cannot be migrated, whatever runs; "": it can."""
    steps, text = options.steps, ""
    if len(route.replicas) < 2 and options.to and not options.changes:
        text = (
            f"Model {route.name!r} has one engine. Name both in BERTH_MODELS, `engines: [vllm, sglang]`, and restart; "
            "or change it: `--set args=...`."
        )
    elif route.standby is Standby.WARM and options.changes:
        text = f"The engines of {route.name!r} are warm standbys: change BERTH_MODELS, and restart Berth."
    elif route.standby is Standby.HOT and not (options.rolls_back or only_args(options)):
        text = (
            f"All engines of {route.name!r} serve (`standby: hot`): only the arguments of one of them can be changed, "
        )
        text += f"`--to {route.replicas[-1]} --set args=...`; `share` in BERTH_MODELS says who gets how much."
    elif len(route.replicas) > 1 and not around.places.keys() >= set(route.replicas):
        text = f"Model {route.name!r} has `replicas`, which are alike: change BERTH_MODELS, and restart Berth."
    elif not steps or list(steps) != sorted(set(steps)) or not 0 < steps[0] <= steps[-1] <= 100:
        text = f"steps must be percentages that grow, up to 100, such as 1,5,25,100: not {', '.join(map(str, steps))}."
    elif not 0 <= options.shadow <= 1:
        text = f"shadow must be a share from 0 to 1, and is {options.shadow:g}: `--shadow 10%` is 0.1."
    elif min(options.step_s, options.keep_s, options.hold_s, options.trial_s, options.step_requests) < 0:
        text = "step_s, step_requests, keep_s, hold_s and trial_s must not be negative."
    elif len("".join((*options.set, options.source))) > LONGEST_SET:
        text = f"set and source have more than {LONGEST_SET} characters: change BERTH_MODELS, and restart."
    return text


def target(route: ModelRoute, options: Options, around: Around, observation: Observation) -> Aim:
    """The replica to migrate to. The one that serves, only where its own command line is to change, and no other
    replica of the same engine is at rest.
    """
    if text := unsuited(route, options, around):
        return Aim("", (), text)
    if options.rolls_back:
        return earlier(route, options, around)
    now = around.history.promoted(route.name)
    kept = now.changes if now is not None else ()
    records = {one.replica.name: one for one in observation.records}
    named = next((found[1] for text in options.set if (found := _ENGINE.match(text))), "")
    if to := options.to or named:
        return named_target(route, to, [records[name] for name in route.replicas], kept, changes=options.changes)
    if route.standby is Standby.HOT and len(route.replicas) > 1:
        names = ", ".join(route.replicas)
        return Aim("", kept, f"Which of them? {route.name!r} has {names}: `--to {route.replicas[-1]}`.")
    serves = records[route.replicas[0]].replica
    rest = [
        name
        for name in route.replicas
        if (one := records[name].replica).engine is serves.engine
        and one.dialect is serves.dialect
        and rested(records[name])
    ]
    return Aim(rest[0] if rest else serves.name, kept)


def named_target(route: ModelRoute, to: str, records: Sequence[Record], kept: tuple[str, ...], *, changes: bool) -> Aim:
    """The first that does not serve. One that serves, only where it changes itself."""
    matching = [
        one.replica.name
        for one in records
        if to in (one.replica.name, one.replica.engine, one.replica.dialect)
        or to == f"{one.replica.engine}:{one.replica.dialect}"
    ]
    serving = route.replicas if route.standby is Standby.HOT else route.replicas[:1]
    chosen = next((name for name in matching if name not in serving), "")
    if not matching:
        known = ", ".join(f"{one.replica.name} ({one.replica.kind})" for one in records)
        text = f"{route.name!r} has no engine {to!r}. It has: {known}. Others need BERTH_MODELS and a restart."
    elif not chosen and not changes:
        text = f"{route.name!r} is served by {matching[0]} already."
    else:
        return Aim(chosen or matching[0], kept)
    return Aim("", kept, text)


def earlier(route: ModelRoute, options: Options, around: Around) -> Aim:
    """Of a rollback: what served before, as far as BERTH_MODELS is still what it was then."""
    history, places = around.history, around.places
    now = history.promoted(route.name)
    past = [one for one in history.of(route.name) if one.state is RevisionState.PROMOTED and one != now]
    wanted = [one for one in past if one.number == options.revision] if options.revision else past[-1:]
    if now is None or not wanted:
        kept = ", ".join(str(one.number) for one in past) or "none"
        text = f"{route.name!r} has no such revision that was promoted before. Kept: {kept}."
        return Aim("", (), f"{text} `berth revisions {route.name}` shows all.")
    (revision,) = wanted
    name = next((name for name in route.replicas if revision.order and places.get(name) == revision.order[0]), "")
    if not revision.order and not now.order:  # Berth has chosen the engine
        name = route.replicas[0]
    if route.standby is Standby.HOT:
        name = changing(route, places, set(revision.changes) ^ set(now.changes)) or name
    if revision.base != now.base or not name:
        shown = f"`berth diff {route.name} {now.number} {revision.number}` shows the difference"
        text = f"Revision {revision.number} comes from another BERTH_MODELS. {shown}: write it there, and restart."
        return Aim("", (), text)
    if name == route.replicas[0] and revision.changes == now.changes:
        return Aim("", (), f"{route.name!r} is served by {name} already.")
    return Aim(name, revision.changes)


def changing(route: ModelRoute, places: Mapping[str, int], lines: Collection[str]) -> str:
    """The replica whose arguments change; "": none, or several do."""
    found = {int(one[1]) for line in lines if (one := re.match(r"engines\[([0-9]+)\]", line))}
    names = [name for name in route.replicas if places.get(name) in found]
    return names[0] if len(names) == 1 else ""

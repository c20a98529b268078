"""What a shadow would be: which replica gets the copies, whether it stands already, and whether it has room; pure."""

from dataclasses import replace

from berth.control.decisions.migrations import AT_REST
from berth.control.decisions.records import COMING, Observation, Record
from berth.control.operations import denials
from berth.control.operations.planning import Pair, misfit
from berth.control.operations.targets import Around
from berth.ipc.operations import Change, Denial, DenialCode
from berth.ipc.shadow import LONGEST_S, Shadow, ShadowOptions, ShadowPhase
from berth.plan import ModelRoute, Standby, Task
from berth.state import ReplicaStatus


def shadow(change: Change, observation: Observation, around: Around, now: float) -> Shadow | Denial:
    route, options = denials.route_of(change.model, observation), change.shadow
    if route is None or options is None:
        return denials.unknown_model(change.model, observation)
    records = {one.replica.name: one for one in observation.records}
    if text := unsuited(route, options):
        return Denial(code=DenialCode.INVALID, message=text)
    found = target(route, options, records)
    text = found if isinstance(found, str) else unready(found, route)
    if isinstance(found, str) or text:
        return Denial(code=DenialCode.SHADOW, message=text)
    begun = Shadow(options=options, candidate=found.replica.name, phase=ShadowPhase.STARTING, since=now, starts=True)
    if found.status is ReplicaStatus.READY or found.attached:
        counts = around.counts
        begun = replace(begun, phase=ShadowPhase.MIRRORING, starts=False, before=counts, now=counts)
    elif crowded := misfit(route, Pair(stable=_serving(route, records) or found, candidate=found), observation, around):
        advice = "`berth bench` compares engines one after another"
        return Denial(code=DenialCode.NO_ROOM, message=f"There is no room for both: {crowded}. {advice}.")
    return begun


def unready(candidate: Record, route: ModelRoute) -> str:
    """Why the candidate cannot get copies soon; "": it can."""
    name, status = candidate.replica.name, candidate.status
    if candidate.attached or status is ReplicaStatus.READY:
        return ""
    if status in COMING:
        return f"{name} is {status}. Try again when it is ready or at rest."
    if status not in AT_REST or not candidate.cleaned_up or route.standby is not Standby.COLD:
        return f"{name} is {status}: `berth load {route.name}` and `berth status` show how to make it ready."
    return ""


def unsuited(route: ModelRoute, options: ShadowOptions) -> str:
    """Why there can be no such shadow, whatever runs; "": there can."""
    if route.task is not Task.GENERATE:
        return f"Model {route.name!r} is for {route.task}: shadows compare chats and completions."
    if not 0 < options.share <= 1:
        return f"share must be above 0 and at most 1, and is {options.share:g}: `--share 5%` is 0.05."
    if not 0 < options.for_s <= LONGEST_S:
        return f"for_s must be above 0 and at most {LONGEST_S:.0f} seconds, and is {options.for_s:g}: `--for 10m`."
    return ""


def target(route: ModelRoute, options: ShadowOptions, records: dict[str, Record]) -> Record | str:
    """The replica that gets the copies, or why there is none."""
    serving, own = _serving(route, records), [records[name] for name in route.replicas]
    matching = [one for one in own if options.to in _names(one)]
    others = [one for one in matching if one is not serving]
    if serving is None:
        return f"Model {route.name!r} is not served now: there is nothing to compare with."
    if others:
        return next((one for one in others if one.status is ReplicaStatus.READY), others[0])
    if matching:
        return f"{route.name!r} is served by {serving.replica.name}: a shadow needs another replica."
    known = ", ".join(f"{one.replica.name} ({one.replica.kind})" for one in own)
    return f"{route.name!r} has no engine {options.to!r}. It has: {known}. Others need BERTH_MODELS and a restart."


def _serving(route: ModelRoute, records: dict[str, Record]) -> Record | None:
    ready = (records[name] for name in route.replicas if records[name].status is ReplicaStatus.READY)
    return next(ready, None)


def _names(record: Record) -> tuple[str, ...]:
    replica = record.replica
    return replica.name, replica.engine, replica.dialect, f"{replica.engine}:{replica.dialect}"

"""Why an operation cannot be done, and who or what is in the way; pure."""

import time
from collections.abc import Mapping, Sequence

import msgspec

from berth.control.decisions import claims, eviction, sleepers
from berth.control.decisions.records import Observation, Record
from berth.ipc.bench import MOST_BYTES
from berth.ipc.operations import HISTORY, LONGEST_DRAIN_S, Action, Change, Denial, DenialCode, Operation, Pin
from berth.plan import ModelRoute, Standby
from berth.state import ReplicaStatus

_S = ReplicaStatus
_NOT_RUNNING = frozenset({_S.ASLEEP, _S.STANDBY, _S.FAILED, _S.STOPPED, _S.UNLOADED})


def unknown_operation(number: str) -> Denial:
    message = f"Operation {number!r} is not known. `berth operations` lists the last {HISTORY}."
    return Denial(code=DenialCode.UNKNOWN_OPERATION, message=message)


def route_of(name: str, observation: Observation) -> ModelRoute | None:
    """By its name or an alias."""
    return next((route for route in observation.routes if name in (route.name, *route.aliases)), None)


def invalid(change: Change, observation: Observation) -> Denial | None:
    """What no operation can be made of."""
    if not 0 <= change.drain_s <= LONGEST_DRAIN_S:
        message = f"drain_s must be between 0 and {LONGEST_DRAIN_S:g} seconds, and is {change.drain_s:g}."
        return Denial(code=DenialCode.INVALID, message=message)
    if change.action is Action.RELOAD:
        if not change.model:
            return None
        return Denial(code=DenialCode.INVALID, message="reload replaces the router's workers and takes no model.")
    route = route_of(change.model, observation)
    if route is not None:
        return invalid_count(change, route, observation)
    replicas = [record.replica.name for record in observation.records]
    if change.action is Action.RESTART and change.model in replicas:
        return None
    return unknown_model(change.model, observation)


def unknown_model(name: str, observation: Observation) -> Denial:
    names = ", ".join(route.name for route in observation.routes)
    message = f"Model {name!r} is not in the plan. Models: {names}."
    return Denial(code=DenialCode.UNKNOWN_MODEL, message=message)


def misplaced_options(change: Change) -> str:
    """What a migration, a shadow or a bench is given goes with that action alone; "": it does."""
    if (change.action is Action.MIGRATE) != (change.migrate is not None):
        example = '{"action": "migrate", "model": "chat", "migrate": {"to": "sglang"}}'
        return f"A migration takes what it migrates to as `migrate`, and nothing else does: {example}."
    if (change.action is Action.SHADOW) != (change.shadow is not None):
        example = '{"action": "shadow", "model": "chat", "shadow": {"to": "sglang", "share": 0.05, "for_s": 600}}'
        return f"A shadow takes what it sends requests to as `shadow`, and nothing else does: {example}."
    if change.bench is not None and change.action is not Action.LEASE:
        return f"A bench is a lease on its model: {change.action} takes no `bench`."
    if change.bench is not None and len(msgspec.json.encode(change.bench)) > MOST_BYTES:
        return f"The options of a bench have at most {MOST_BYTES} bytes."
    return ""


def invalid_count(change: Change, route: ModelRoute, observation: Observation) -> Denial | None:
    """The places of replicas are fixed when Berth starts, and at least one replica stays."""
    count, most = change.count, len(claims.records_of(route, observation))
    if message := misplaced_options(change):
        return Denial(code=DenialCode.INVALID, message=message)
    if count is None and change.action is not Action.SCALE:
        return None
    if count is None or change.action is not Action.SCALE:
        message = "scale takes the number of replicas as `count`, and nothing else does."
    elif most <= 1 or route.standby is not Standby.HOT:
        message = f"Model {route.name!r} has no replicas to scale. Set `replicas` in BERTH_MODELS, and restart Berth."
    elif not 1 <= count <= most:
        message = f"Model {route.name!r} has 1 to {most} replicas, not {count}. `berth unload` unloads all of them."
    else:
        return None
    return Denial(code=DenialCode.INVALID, message=message)


def denial(
    operation: Operation, running: Operation | None, pins: Mapping[str, Pin], observation: Observation
) -> Denial | None:
    """Why it cannot be done now, and who or what is in the way."""
    pin = pins.get(operation.model)
    action, model = operation.action, operation.model
    records = [record for record in observation.records if record.replica.name in operation.replicas]
    code, message = None, ""
    if observation.shutting_down:
        code, message = DenialCode.STOPPING, "Berth is shutting down."
    elif action in (Action.RELOAD, Action.PIN, Action.UNPIN):
        return None
    elif not records and action is not Action.SHADOW:
        text = f"Model {model!r} is served by attached servers only: Berth can neither start nor stop them."
        code, message = DenialCode.ATTACHED, text
    elif pin is not None and action in (Action.UNLOAD, Action.SLEEP, Action.LEASE):
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(pin.since))
        text = f"Model {model!r} was pinned by {pin.by or 'someone'} at {since} UTC. `berth unpin {model}` ends that."
        code, message = DenialCode.PINNED, text
    elif running is not None:
        age_s = max(operation.created_at - running.created_at, 0)
        text = (
            f"Operation {running.id} of {model!r} is running: {running.action}, requested by "
            f"{running.by or 'someone'} {age_s:.0f} s ago. `berth cancel {running.id}` ends it."
        )
        code, message = DenialCode.BUSY, text
    elif text := no_room(operation, pins, observation):
        code, message = DenialCode.NO_ROOM, text
    elif action is Action.LEASE:
        code, message = shared_gpus(model, records, observation)
    else:
        code, message = unfit(operation, records, observation)
    if code is None:
        return None
    route = route_of(model, observation) if code is DenialCode.NO_ROOM else None
    holders = eviction.blocked(route, observation, pins)[1] if route else ()
    return Denial(code=code, message=message, holders=tuple(holders))


def no_room(operation: Operation, pins: Mapping[str, Pin], observation: Observation) -> str:
    """Who holds the room of a model, and does not leave."""
    route = route_of(operation.model, observation)
    if route is None or operation.action not in eviction.TAKES_ROOM:
        return ""
    blocker = eviction.blocker(route, observation, pins)
    return f"Model {route.name!r} has no room on {blocker}. `berth unpin` lets them leave." if blocker else ""


def shared_gpus(model: str, records: Sequence[Record], observation: Observation) -> tuple[DenialCode | None, str]:
    """What is measured has its GPUs alone."""
    gpus = {gpu for one in records for gpu in one.replica.gpus}
    others = [
        one.replica.name
        for one in observation.records
        if one.replica.model != model and one.status not in _NOT_RUNNING and gpus.intersection(one.replica.gpus)
    ]
    text = f"{', '.join(others)} run on the GPUs of model {model!r}. `berth unload` lets it have them alone."
    return (DenialCode.SHARED_GPUS, text) if others else (None, "")


def no_way_to_sleep(model: str, records: Sequence[Record], observation: Observation) -> str:
    """Why its engines would be stopped instead, for lack of RAM, and whose weights hold it. What failed to sleep
    before is stopped without further words.
    """
    route = route_of(model, observation)
    able = [one for one in records if one.status is _S.READY and not one.cannot_sleep]
    if route is None or len(able) < len([one for one in records if one.status not in _NOT_RUNNING]):
        return ""
    found = sleepers.leave(route, sleepers.account(observation, {model: 0.0}, 0.0), ())
    held = {one.replica.model for one in observation.records if sleepers.held_bytes(one)}
    by = f" Weights of {', '.join(sorted(held))}, asleep, are in RAM: `berth unload` releases it." if held else ""
    advice = f" `berth unload {model}` stops it instead."
    return "" if found.sleeps or not found.why else f"Model {model!r} cannot sleep: {found.why}.{by}{advice}"


def unfit(operation: Operation, records: Sequence[Record], observation: Observation) -> tuple[DenialCode | None, str]:
    """What the replicas' statuses do not allow."""
    model = operation.model
    match operation.action:
        case Action.SLEEP:
            if all(one.status is _S.UNLOADED for one in records):
                return DenialCode.NOT_LOADED, f"Model {model!r} is not loaded. `berth load {model}` loads it."
            for one in (one for one in records if one.status not in _NOT_RUNNING):
                if one.replica.sleep is None:
                    text = (
                        f"{one.replica.name} was started without sleep mode, or its engine has none. Set `sleep: true`"
                    )
                    text += f" for {model!r} in BERTH_MODELS, or unload it: `berth unload {model}`."
                    return DenialCode.CANNOT_SLEEP, text
            if text := no_way_to_sleep(model, records, observation):
                return DenialCode.CANNOT_SLEEP, text
        case Action.WAKE:
            asleep = any(one.status is _S.ASLEEP and one.goal is not None for one in records)
            if not asleep and not any(one.status in (_S.READY, _S.WAKING) for one in records):
                return (
                    DenialCode.NOT_ASLEEP,
                    f"Model {model!r} is not asleep by request. `berth load {model}` loads it.",
                )
        case Action.RESTART:
            if not operation.starts:
                return DenialCode.NOT_LOADED, f"Nothing of model {model!r} is running. `berth load {model}` loads it."
    return None, ""

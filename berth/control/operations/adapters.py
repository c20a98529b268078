"""LoRA adapters that are added and removed while their model serves: what is allowed, and what there is; pure."""

from dataclasses import replace

from berth.control.decisions.records import Observation
from berth.control.operations import denials
from berth.control.operations.store import Kept
from berth.ipc.operations import AdapterChange, AdapterStatus, Denial, DenialCode, Reply
from berth.plan import ModelRoute


def ask(change: AdapterChange, observation: Observation, kept: Kept) -> tuple[Reply, Kept]:
    """The reply, and what is kept from now on. The same change twice is one."""
    route = denials.route_of(change.model, observation)
    if route is None:
        return Reply(denial=denials.unknown_model(change.model, observation)), kept
    own = kept.adapters.get(route.name, ())
    if change.add is not None and change.add not in own:
        if reason := blocker(change, route, observation, kept):
            return Reply(denial=Denial(code=DenialCode.ADAPTER, message=reason)), kept
        own = (*own, change.add)
        kept = replace(kept, used_names={**kept.used_names, change.add.name: change.add.source})
    if change.remove:
        if change.remove not in (one.name for one in own):
            names = ", ".join(one.name for one in own) or "none"
            message = f"No adapter {change.remove!r} was added to {route.name!r}. Added: {names}."
            return Reply(denial=Denial(code=DenialCode.ADAPTER, message=message)), kept
        if change.remove in kept.watched.get(route.name, {}):
            message = f"{change.remove!r} comes from {route.adapter_folder!r}: remove its folder there."
            return Reply(denial=Denial(code=DenialCode.ADAPTER, message=message)), kept
        kept = without(route, change.remove, kept)
    elif change.add is not None:
        kept = replace(kept, adapters={**kept.adapters, route.name: own})
    return Reply(adapters=statuses(route, observation, kept)), kept


def without(route: ModelRoute, name: str, kept: Kept) -> Kept:
    own = tuple(one for one in kept.adapters.get(route.name, ()) if one.name != name)
    return replace(kept, adapters={**kept.adapters, route.name: own})


def blocker(change: AdapterChange, route: ModelRoute, observation: Observation, kept: Kept) -> str:
    """Why the adapter cannot be added; "": it can."""
    adapter, own = change.add, kept.adapters.get(route.name, ())
    if adapter is None:
        return ""
    taken = {name for one in observation.routes for name in (one.name, *one.aliases, *(a.name for a in one.adapters))}
    taken |= {one.name for several in kept.adapters.values() for one in several}
    used = kept.used_names.get(adapter.name, adapter.source)
    reason = ""
    if not route.adapter_slots:
        reason = f"Model {route.name!r} has no room for adapters. Set `adapter_slots: 4` for it in BERTH_MODELS."
    elif adapter.name in taken:
        reason = f"{adapter.name!r} is the name of a model, alias or adapter already."
    elif used != adapter.source:
        reason = f"{adapter.name!r} was the name of other weights ({used!r}) before, which engines may still have in "
        reason += "their caches. Take another name."
    elif len(own) >= route.adapter_slots:
        reason = f"All {route.adapter_slots} slots of {route.name!r} are taken: {', '.join(one.name for one in own)}."
    elif (adapter.rank or 0) > route.adapter_rank:
        reason = f"{adapter.name!r} has rank {adapter.rank}; `adapter_rank` of {route.name!r} is {route.adapter_rank}."
    return reason


def statuses(route: ModelRoute, observation: Observation, kept: Kept) -> tuple[AdapterStatus, ...]:
    records = [one for one in observation.records if one.replica.name in route.replicas]
    return tuple(
        AdapterStatus(
            name=adapter.name,
            source=adapter.source,
            loaded=tuple(one.replica.name for one in records if adapter.name in one.adapters),
            errors={
                one.replica.name: one.adapter_errors[adapter.name]
                for one in records
                if adapter.name in one.adapter_errors
            },
        )
        for adapter in kept.adapters.get(route.name, ())
    )

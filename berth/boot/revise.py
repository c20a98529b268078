"""`python -m berth.boot.revise RUN_DIR`: how a running model would be planned with other arguments, options or another
source. Starts and writes nothing. Control is its client: see `berth.ipc.revising`.

All other models and the host stay as they were when Berth started: what is planned fits into the place of the engine.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

import msgspec

from berth.boot.config import checkout
from berth.boot.config.model_changes import requested
from berth.boot.config.model_spec import ModelSpec
from berth.boot.config.settings import Settings, load
from berth.boot.planner.attached.discovery import unasked
from berth.boot.planner.build import make_plan
from berth.boot.planner.inputs import HostInfo, inspect_host
from berth.boot.planner.revisions import is_current, labels, revised, says
from berth.errors import BerthError, ConfigError, ControlError
from berth.ipc.revising import Revised, Wanted
from berth.plan import Keys, ModelRoute, Plan, Replica, Revision, read_keys, read_plan
from berth.records.revisions import History


def main(run_dir: str, request: bytes) -> bytes:
    """The reply to a Wanted."""
    try:
        wanted = msgspec.json.decode(request, type=Wanted)
        plan, keys = read_plan(run_dir), read_keys(run_dir)
        environ = {**os.environ, **environment(keys)}
        settings = replace(load(environ, defaults=checkout.defaults(environ)), revision="latest")
        found = revise(wanted, plan, settings, inspect_host(settings, environ))
    except ConfigError as error:
        found = Revised(error="; ".join(map(str, error.problems)))
    except (BerthError, OSError, ValueError) as error:
        found = Revised(error=str(error))
    return msgspec.json.encode(found)


def environment(keys: Keys) -> Mapping[str, str]:
    """What Berth was started with, less what no engine depends on: rules name clients' keys, which are not kept."""
    own = {name: text for name, text in keys.environ.items() if not name.startswith("BERTH_ROUTES")}
    secret = {"HF_TOKEN": keys.hub_token, "BERTH_NODES_KEY": keys.nodes_key}
    return own | keys.otel | {name: text for name, text in secret.items() if text}


def revise(wanted: Wanted, plan: Plan, settings: Settings, host: HostInfo) -> Revised:
    """`host`: as it is now. ConfigError, PlacementError or MachineError where the model cannot be planned so;
    ControlError where it would need more than its place.
    """
    spec = next((one for one in settings.models if one.name == wanted.model), None)
    known = {one.model: one for one in plan.revisions}
    began = known.get(wanted.model)
    if spec is None or began is None or not is_current(began, spec, host.history.key):
        raise ControlError(f"BERTH_MODELS has changed for {wanted.model!r} since Berth started: restart Berth")
    route = next(one for one in plan.models if one.name == wanted.model)
    engine = engine_of(spec, route, began, plan.replica(wanted.replica))
    changes = requested(spec, engine, wanted.before, wanted.set, wanted.source)
    revisions = tuple({**known, wanted.model: replace(began, changes=changes)}.values())
    host = replace(
        host,
        history=History(revisions=revisions, key=host.history.key),
        inventory=plan.inventory,
        memory_available_bytes=host.memory_available_bytes + running_bytes(plan),
        free_ports=lambda count: ports(plan)[:count],
        discover=unasked,
    )
    new = make_plan(settings, host)
    (said,) = revised([spec], revisions)
    return Revised(
        changes=changes,
        says=says(said, host.history.key),
        engines=labels(said.engines),
        route=next(one for one in new.models if one.name == wanted.model),
        replicas=in_place(plan, new, route),
    )


def engine_of(spec: ModelSpec, route: ModelRoute, began: Revision, replica: Replica) -> str:
    """How changes name the engine of a replica. Where Berth has chosen it, there is no list that it has a place in."""
    if spec.engines:
        return f"engines[{began.order[route.replicas.index(replica.name)]}]"
    return str(replica.engine)


def running_bytes(plan: Plan) -> int:
    """The RAM that the engines on the CPU were planned to take: by now they do."""
    return sum(one.memory.total_bytes for one in plan.replicas if one.memory and not one.gpus)


def ports(plan: Plan) -> list[int]:
    """Those of the running plan, in its order."""
    found = [urlsplit(one.url).port for one in plan.replicas if one.launch is not None and not one.socket_path]
    return [port for port in found if port is not None]


def in_place(plan: Plan, new: Plan, route: ModelRoute) -> tuple[Replica, ...]:
    """The engines of the new plan that run in the places of those of the running one."""
    found = []
    for old in (plan.replica(name) for name in route.replicas):
        one = next((one for one in new.replicas if one.name == old.name), None)
        if old.attached:
            continue
        if one is None or (one.engine, one.url, one.ranks) != (old.engine, old.url, old.ranks):
            raise ControlError(f"{old.name} would be another engine: change BERTH_MODELS, and restart Berth")
        if one.gpus != old.gpus:
            places = [", ".join(map(str, two.gpus)) or "none" for two in (old, one)]
            reason = f"{old.name} has the GPUs {places[0]}, and would need the GPUs {places[1]}"
            raise ControlError(f"{reason}: change BERTH_MODELS, and restart Berth")
        found.append(one)
    return tuple(found)


if __name__ == "__main__":
    sys.stdout.buffer.write(main(sys.argv[1], sys.stdin.buffer.read()))

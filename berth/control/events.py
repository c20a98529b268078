"""Log events of control: one line per transition of a replica, and an example request."""

from collections.abc import Mapping

from berth.control.decisions import requests
from berth.control.decisions.records import Record
from berth.log import log
from berth.plan import ModelRoute, Plan, Task
from berth.state import ReplicaStatus

_S = ReplicaStatus


_EVENTS = {
    _S.WAITING: "standby activated",
    _S.WAKING: "standby waking up",
    _S.STANDBY: "replica became a cold standby",
    _S.UNHEALTHY: "replica unhealthy",
}


def log_transition(before: Record, record: Record, now: float, usual_s: float | None = None) -> None:
    """`usual_s`: how long such a start or wake takes; None: unknown."""
    usual = {} if usual_s is None else {"usual_s": round(usual_s, 1)}
    replica, status, reason = record.replica, record.status, record.reason
    bound = log.bind(replica=replica.name)
    after_s = round(now - before.since, 1)
    match status:
        case _ if requests.is_requested(before, status) or (status is _S.WAITING and not record.origin):
            bound.info(f"replica {status.value}", reason=reason)
        case _S.WAITING | _S.WAKING:
            bound.warning(_EVENTS[status], reason=record.origin)
        case _S.STANDBY | _S.UNHEALTHY:
            bound.warning(_EVENTS[status], reason=reason)
        case _S.STARTING:
            log_start(record, usual)
        case _S.READY:
            bound.info("replica ready", model=replica.model, after_s=after_s, **usual)
        case _S.FALLING_ASLEEP:
            bound.info("replica falling asleep")
        case _S.ASLEEP:
            bound.info("replica asleep", after_s=after_s)
        case _S.BACKOFF:
            next_s = round((record.next_start_at or now) - now, 1)
            bound.warning("replica failed", reason=reason, next_start_in_s=next_s)
        case _S.FAILED:
            bound.error("replica failed permanently", reason=reason, next=f"see `berth logs {replica.name}`")
        case _:  # STOPPING, STOPPED
            bound.info(f"replica {status.value}", reason=reason)


def log_start(record: Record, usual: Mapping[str, float]) -> None:
    replica = record.replica
    if record.attached:
        log.info("attached server loading", replica=replica.name, reason=record.reason)
        return
    devices = f"GPU {','.join(str(gpu) for gpu in replica.gpus)}" if replica.gpus else "CPU"
    log.info("replica starting", replica=replica.name, engine=replica.engine.value, devices=devices, **usual)


def log_example_request(plan: Plan, replica: str) -> None:
    """For the model of the first replica that is ready."""
    route = next((route for route in plan.models if replica in route.replicas), None)
    if route is not None:
        log.info(f"try it: {example_request(plan, route)}")


def example_request(plan: Plan, route: ModelRoute) -> str:
    """A curl command to copy."""
    key = "" if plan.open_access else " -H 'authorization: Bearer YOUR_KEY'"
    if route.task is Task.EMBED:
        path, body = "/v1/embeddings", f'{{"model":"{route.name}","input":"Hello"}}'
    else:
        path = "/v1/chat/completions"
        body = f'{{"model":"{route.name}","messages":[{{"role":"user","content":"Hello"}}]}}'
    url = f"{plan.listen.client_url('localhost')}{path}"
    return f"curl {url} -H 'content-type: application/json'{key} -d '{body}'"

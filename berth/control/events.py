"""What control tells an operator about a replica's moves, one line per event."""

from berth.control.records import Record
from berth.log import log
from berth.plan import ModelRoute, Plan, Task
from berth.state import ReplicaStatus

_S = ReplicaStatus
_EVERYWHERE = ("", "0.0.0.0", "::", "*")


def announce(before: Record, record: Record, now: float) -> None:
    """Logs the move from `before` to `record`."""
    name, reason = record.replica.name, record.reason
    match record.status:
        case _S.WAITING:
            log.warning("standby takes over", replica=name, reason=record.origin)
        case _S.STARTING:
            log.info("replica starts", replica=name, engine=record.replica.engine.value, on=devices(record))
        case _S.READY:
            after_s = round(now - before.since, 1)
            log.info("replica ready", replica=name, model=record.replica.model, after_s=after_s)
        case _S.ASLEEP:
            log.info("replica asleep", replica=name, after_s=round(now - before.since, 1))
        case _S.WAKING:
            log.warning("standby is woken", replica=name, reason=record.origin)
        case _S.STANDBY:
            log.warning("replica is a cold standby now", replica=name, reason=reason)
        case _S.UNHEALTHY:
            log.warning("replica unhealthy", replica=name, reason=reason)
        case _S.BACKOFF:
            next_s = round((record.next_start_at or now) - now, 1)
            log.warning("replica failed", replica=name, reason=reason, next_start_in_s=next_s)
        case _S.FAILED:
            log.error("replica failed for good", replica=name, reason=reason, next=f"`berth logs {name}` shows more")
        case _:
            log.info(f"replica {record.status.value}", replica=name, reason=reason)


def devices(record: Record) -> str:
    gpus = record.replica.gpus
    return f"GPU {','.join(str(gpu) for gpu in gpus)}" if gpus else "CPU"


def try_it(plan: Plan, route: ModelRoute) -> str:
    """A command that can be copied, with the first model that serves."""
    key = "" if plan.open_access else " -H 'authorization: Bearer YOUR_KEY'"
    if route.task is Task.EMBED:
        path, body = "/v1/embeddings", f'{{"model":"{route.name}","input":"Hello"}}'
    else:
        path = "/v1/chat/completions"
        body = f'{{"model":"{route.name}","messages":[{{"role":"user","content":"Hello"}}]}}'
    return f"try it: curl {_base_url(plan)}{path} -H 'content-type: application/json'{key} -d '{body}'"


def _base_url(plan: Plan) -> str:
    host = "localhost" if plan.listen.host in _EVERYWHERE else plan.listen.host
    return f"http://[{host}]:{plan.listen.port}" if ":" in host else f"http://{host}:{plan.listen.port}"

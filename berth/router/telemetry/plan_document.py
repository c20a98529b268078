"""The document of /plan: what boot has decided, and why. Secrets in command lines are masked."""

import shlex
from dataclasses import asdict
from typing import Any

from berth import __version__
from berth.log_lines import clean
from berth.plan import Plan, Replica


def document(plan: Plan) -> dict[str, Any]:
    """Without the environments and files of engines, which may hold what users put there."""
    return {
        "version": __version__,
        "created": plan.created,
        "listen": {"url": plan.listen.url(), "workers": plan.listen.workers, "tls": bool(plan.listen.tls_cert)},
        "open_access": plan.open_access,
        "open_to": str(plan.open_to),
        "offline": plan.offline,
        "limits": asdict(plan.limits),
        "inventory": asdict(plan.inventory),
        "models": [
            {
                "name": route.name,
                "source": route.source,
                "revision": route.revision,
                "task": str(route.task),
                "context": route.context,
                "standby": str(route.standby),
                "load": str(route.load),
                "replicas": [_replica(plan.replica(name)) for name in route.replicas],
            }
            for route in plan.models
        ],
        "rules": [one.document for one in plan.rules],
        "warnings": list(plan.warnings),
        "configuration": [asdict(one) for one in plan.configuration],
    }


def _replica(replica: Replica) -> dict[str, Any]:
    launch = replica.launch
    return {
        "name": replica.name,
        "engine": replica.kind,
        "attached": replica.attached,
        "gpus": list(replica.gpus),
        "context": replica.context,
        "concurrency": replica.concurrency,
        "reason": replica.reason,
        "memory": asdict(replica.memory) if replica.memory else None,
        "origins": dict(replica.origins),  # what decided about each figure
        "notes": list(launch.notes) if launch else [],
        "command": clean(shlex.join(launch.argv)) if launch else "",
    }

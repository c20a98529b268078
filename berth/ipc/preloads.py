"""What the processes that engines are forked from say of themselves, for /status. They write it, see
`berth.boot.preload.server`.
"""

import json
from typing import Any

from berth.plan import Plan
from berth.proc_stat import rss_bytes, stat_of


def preloads(plan: Plan) -> list[dict[str, Any]]:
    """A document for each of them. `memory_bytes`: RAM, which its forks share as long as they do not change it."""
    return [
        {"name": one.name, "engine": str(one.engine), "replicas": list(one.replicas), **_state(plan, one.name)}
        for one in plan.preloads
    ]


def _state(plan: Plan, name: str) -> dict[str, Any]:
    try:
        said = json.loads(plan.paths.preload_state(name).read_bytes())
        pid, problem = int(said["pid"]), str(said["problem"])
        ready, seconds, forks = bool(said["ready"]), said.get("seconds"), int(said["forks"])
    except (OSError, ValueError, LookupError, TypeError):
        return {"status": "unloaded", "reason": "", "seconds": None, "forks": 0, "memory_bytes": 0}
    stat = stat_of(pid)
    alive = stat is not None and stat.alive and not problem
    status = ("ready" if ready else "starting") if alive else "stopped"
    memory = rss_bytes(pid) if alive else 0
    return {"status": status, "reason": problem, "seconds": seconds, "forks": forks, "memory_bytes": memory}

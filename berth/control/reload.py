"""`berth reload`: new router workers in place of the old ones, while they serve."""

import asyncio

from berth.control.report import read
from berth.control.supervisor import Supervisor
from berth.plan import RunPaths


def reload(run_dir: str) -> str:
    """What was begun, for people. ControlError when nothing runs with this run directory."""
    paths = RunPaths(run_dir=run_dir, data_dir="")
    plan, _ = read(paths)
    asyncio.run(_signal(paths))
    return (
        f"{plan.listen.workers} router worker(s) are replaced, one after the other: a new one starts, the old one "
        f"finishes its requests (at most {plan.limits.drain_timeout_s:g} s). Plan and engines stay as they are."
    )


async def _signal(paths: RunPaths) -> None:
    supervisor = Supervisor(paths.supervisord_socket)
    try:
        await supervisor.reload_router()
    finally:
        supervisor.close()

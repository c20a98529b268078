"""The program `berth control`, a child of supervisord."""

import asyncio
import logging
import os
import signal
import sys

from berth.control.controller import Controller
from berth.control.records import Timing
from berth.log import configure, log
from berth.plan import Keys, Plan, RunPaths, read_keys, read_plan
from berth.processes import channel, follow_supervisor, read_record, supervisor_record


def serve(run_dir: str, timing: Timing | None = None) -> int:
    """Runs until SIGTERM, or until supervisord is gone. ControlError when there is no plan to follow."""
    parent = os.getppid()
    paths = RunPaths(run_dir=run_dir, data_dir="")
    plan, keys = read_plan(run_dir), read_keys(run_dir)
    configure(
        program="control",
        log_format=plan.logs.format,
        level=plan.logs.level,
        channel=channel(plan.paths, "control"),
    )
    record = read_record(supervisor_record(paths))
    logging.raiseExceptions = False  # a full disk behind standard output is no reason for a traceback per line
    asyncio.run(_run(plan, keys, record.pid if record else parent, timing))
    _settle_output()
    return 0


async def _run(plan: Plan, keys: Keys, parent: int, timing: Timing | None) -> None:
    keeper = Controller(plan, keys, orphaned=lambda: os.getppid() != parent, timing=timing)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, keeper.stop)
    follow_supervisor(plan.paths)  # after the handlers: it may send the signal at once
    log.info("control started", replicas=len(plan.replicas))
    await keeper.run()
    log.info("control ends")


def _settle_output() -> None:
    """What cannot be written to a closed standard output must not become an exit code."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

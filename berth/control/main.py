"""The program `berth control`, a child of supervisord."""

import asyncio
import logging
import os
import signal
import sys

from berth.control.controller import Controller
from berth.control.decisions.records import Timing
from berth.log import configure, log
from berth.plan import Keys, Plan, RunPaths, read_keys, read_plan
from berth.processes import channel, follow_supervisor, read_record, supervisor_record


def serve(run_dir: str, timing: Timing | None = None) -> int:
    """Runs until SIGTERM, or until supervisord is gone. ControlError without a readable plan."""
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
    logging.raiseExceptions = False  # no traceback per line when the disk behind standard output is full
    asyncio.run(_run(plan, keys, record.pid if record else parent, timing))
    try:
        sys.stdout.flush()
    except (OSError, ValueError):  # closed: must not become an exit code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


async def _run(plan: Plan, keys: Keys, parent: int, timing: Timing | None) -> None:
    controller = Controller(plan, keys, orphaned=lambda: os.getppid() != parent, timing=timing)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, controller.stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    follow_supervisor(plan.paths)  # after the handlers: the signal may follow immediately
    log.info("control started", replicas=len(plan.replicas))
    await controller.run()
    log.info("control stopped")

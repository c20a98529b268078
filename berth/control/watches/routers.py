"""Watching the router: silent workers are killed, and the router replaces them (see berth.ipc.heartbeats).

A stopped or blocked worker still gets its share of the new connections, which then hang. With its end they are reset,
and clients connect again; where the kernel has `net.ipv4.tcp_migrate_req=1`, another worker gets those that it had not
accepted yet.

The router's main process and the foreground process are needed by others: killing them would end what works. Where one
of them is stopped (SIGSTOP), it is resumed.
"""

import asyncio
import os
import signal
import time

from berth.ipc.heartbeats import FIRST_WORKER, ROUND_S, ROUTER, Live, Row, Watch, live, read_rows, send
from berth.log import log
from berth.plan import RunPaths
from berth.proc_stat import stat_of


async def watch_router(paths: RunPaths, *, round_s: float = ROUND_S) -> None:
    """Until it is cancelled."""
    workers, leaders = Watch(), StoppedProcesses()
    while True:
        rows = read_rows(paths.heartbeats)
        now = time.monotonic()
        for row in workers.silent(live(rows[FIRST_WORKER:]), now):
            log.error("silent router worker killed", pid=row.pid)
            send(row, signal.SIGKILL)
        for row in leaders.stopped([*rows[ROUTER:FIRST_WORKER], *foreground(os.getppid())], now):
            log.warning("stopped process resumed", pid=row.pid)
            send(row, signal.SIGCONT)
        await asyncio.sleep(round_s)


def foreground(supervisord: int) -> list[Row]:
    """The parent of supervisord, if there is one."""
    stat = stat_of(supervisord)
    parent = stat_of(stat.parent) if stat is not None and stat.parent > 1 else None
    return [Row(stat.parent, parent.start_ticks, 0)] if stat and parent else []


class StoppedProcesses:
    """Those that stay stopped: a pause of the whole container does not count."""

    def __init__(self) -> None:
        self._watch = Watch()
        self._changes = 1

    def stopped(self, rows: list[Row], now: float) -> list[Row]:
        self._changes += 1
        changing = [Live(row._replace(beats=1 if stopped else self._changes), stopped) for row, stopped in live(rows)]
        return self._watch.silent(changing, now)

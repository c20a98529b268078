"""Steers new connections away from a silent worker, until control has replaced it (see berth.ipc.heartbeats).

The kernel divides new connections among the listeners of all workers, also those of a worker that is stopped or
blocked, where they hang. So each worker watches the others. The newest one that is well, which no other has replaced,
then takes all new connections for these seconds. It has to find out its place in the kernel's list of listeners, which
nothing shows and which changes as workers come and go: it chooses one place after another, and sees whether a
connection of its own arrives here.
"""

import asyncio
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from berth.ipc.heartbeats import FIRST_WORKER, Row, read_rows
from berth.log import log
from berth.plan import Listen
from berth.router.handover import choose_listener
from berth.router.sockets import tcp_sockets

STOPPED_POLLS: Final = 4  # without a heartbeat, for a worker that a signal has stopped
BLOCKED_POLLS: Final = 15  # for one that may only be busy
_ARRIVES_S: Final = 0.25  # a connection within this process
_LOOK_S: Final = 0.005

Process = tuple[int, int]  # pid and start ticks


class Watch:
    """Which workers are silent; pure but for the look at those that may be."""

    def __init__(self) -> None:
        self._seen: dict[Process, tuple[int, int]] = {}  # heartbeats, polls without a change

    def silent(self, rows: list[Row]) -> set[Process]:
        """Called with the rows of all workers, several times a second."""
        seen, found = {}, set()
        for row in rows:
            if not row.pid or not row.beats:  # no worker, or one that does not listen yet
                continue
            beats, polls = self._seen.get(row[:2], (row.beats, -1))
            polls = polls + 1 if beats == row.beats else 0
            seen[row[:2]] = (row.beats, polls)
            if polls >= STOPPED_POLLS and (stat := row.stat()) and (stat.stopped or polls >= BLOCKED_POLLS):
                found.add(row[:2])
        self._seen = seen
        return found


class Steering:
    """Of one worker."""

    def __init__(self, heartbeats: Path, own_row: int, listen: Listen) -> None:
        self._heartbeats = heartbeats
        self._own = own_row - FIRST_WORKER
        self._address = (listen.host, listen.port)
        self._most = listen.most_workers  # as many listeners
        self._watch = Watch()
        self._avoided: set[Process] = set()

    async def poll(self) -> None:
        """Called several times a second."""
        rows = read_rows(self._heartbeats)[FIRST_WORKER:]
        silent = self._watch.silent(rows)
        well = [place for place, row in enumerate(rows) if row.beats and row.pid and row[:2] not in silent]
        newest = max(well, key=lambda place: (rows[place].start_ticks, place), default=-1)
        avoided = silent if newest == self._own else set()
        if avoided == self._avoided:
            return
        self._avoided = avoided
        taken = await asyncio.to_thread(take_all, *self._address, self._most) if avoided else False
        if taken:
            log.warning("new connections steered away", silent=" ".join(str(pid) for pid, _ in sorted(avoided)))
        else:
            choose_listener(self._address[1], self._most)


def take_all(host: str, port: int, most: int) -> bool:
    """From now on all new connections come to this process. Blocks for a moment. False: it is not known how."""
    for index in range(most):
        if not choose_listener(port, index):
            return False
        with suppress(OSError):
            if _arrives_here(host, port):
                return True
    return False


def _arrives_here(host: str, port: int) -> bool:
    with socket.create_connection((host, port), timeout=_ARRIVES_S) as probe:
        address, ends = probe.getsockname()[:2], time.monotonic() + _ARRIVES_S
        while time.monotonic() < ends:
            for _, copy in tcp_sockets(port):
                with suppress(OSError):  # it listens, or it was closed in between
                    if copy.getpeername()[:2] == address:
                        return True
            time.sleep(_LOOK_S)
    return False

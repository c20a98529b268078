"""The clients' connections of this worker: how many there may be, and which of them are closed.

A request needs two descriptors, one for its client and one for its engine. So clients get less than half of what the
process may open. There are four limits:

1. `served` connections. When there are more, those without a request are closed, the longest idle first. If the rest
   is still too many, new requests get a 503 on connections that then close (`full`).
2. `accepted` connections. Granian accepts no more; the kernel holds further ones until some are closed.
3. A client that takes nothing of what was sent for BERTH_CLIENT_STALL_TIMEOUT is reset: otherwise its unread data stays
   in the kernel as long as the client likes.
4. A client has HEAD_S for the head of a request. Granian's own limit is that of idle connections, which is longer.
"""

import asyncio
import fcntl
import math
import os
import resource
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from berth.log import log
from berth.router.exchange.inflight import Client
from berth.router.sockets import duplicate, tcp_sockets

OWN_DESCRIPTORS: Final = 64  # of the worker itself; it has about 30
HEAD_S: Final = 30.0
_MOST_SERVED: Final = 1 << 20
_LOOK_S: Final = 5.0
_LOOK_CROWDED_S: Final = 0.2
_LEAST_PAUSE: Final = 5  # times as long as the last look took
_LOG_S: Final = 60.0
_TCP_INFO_BYTES: Final = 136
_LAST_DATA_RECEIVED: Final = 52  # the offsets in `struct tcp_info` of linux/tcp.h
_BYTES_ACKED: Final = 120
_BYTES_RECEIVED: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many connections of clients a worker may have."""

    served: int
    accepted: int


def room(descriptors: int) -> Room:
    """In a process that may open so many descriptors. Pure."""
    shared = max(16, descriptors - OWN_DESCRIPTORS)
    spare = min(1 << 16, max(4, shared // 16))
    served = (shared - spare) // 2
    return Room(served=min(_MOST_SERVED, served), accepted=min(_MOST_SERVED, served) + spare)


def raise_limit() -> None:
    """This process, and those that it starts, may open as many descriptors as they are allowed to."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):  # "unlimited" is more than the kernel gives
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def own_room() -> Room:
    """In this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return room(sys.maxsize if soft == resource.RLIM_INFINITY else soft)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One connection at one moment."""

    descriptor: int
    client: Client
    idle_ms: int  # since the client sent anything
    unread_bytes: int  # that the client has not acknowledged
    acked_bytes: int
    received_bytes: int


def look(port: int) -> list[Row]:
    """All connections to `port` of this process."""
    rows = []
    for descriptor, copy in tcp_sockets(port):
        with suppress(OSError, struct.error):  # it listens, or it was closed in between
            client = _client(copy)
            info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            (unread_bytes,) = struct.unpack("i", fcntl.ioctl(copy, termios.TIOCOUTQ, bytes(4)))
            (idle_ms,) = struct.unpack_from("I", info, _LAST_DATA_RECEIVED)
            (acked_bytes,) = struct.unpack_from("Q", info, _BYTES_ACKED)
            (received_bytes,) = struct.unpack_from("Q", info, _BYTES_RECEIVED)
            row = Row(
                descriptor=descriptor,
                client=client,
                idle_ms=idle_ms,
                unread_bytes=unread_bytes,
                acked_bytes=acked_bytes,
                received_bytes=received_bytes,
            )
            rows.append(row)
    return rows


def close(port: int, rows: Iterable[Row], *, reset: bool) -> None:
    """Ends these connections: Granian then closes its descriptors. `reset`: also what was not sent yet is dropped."""
    for row in rows:
        if (copy := duplicate(row.descriptor, port)) is None:
            continue
        with copy, suppress(OSError):
            if _client(copy) != row.client:  # another connection has this descriptor now
                continue
            if reset:
                copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            copy.shutdown(socket.SHUT_RDWR)


def surplus(rows: Iterable[Row], busy: Collection[Client], most: int) -> list[Row]:
    """The connections to close so that `most` remain: of those without a request and with nothing unread the longest
    idle ones. Pure.
    """
    rows = list(rows)
    idle = [row for row in rows if row.client not in busy and not row.unread_bytes]
    idle.sort(key=lambda row: -row.idle_ms)
    return idle[: max(0, len(rows) - most)]


class Unread:
    """How long clients have taken nothing of what was sent to them."""

    def __init__(self) -> None:
        self._since: Mapping[Client, tuple[int, float]] = {}  # the bytes that were acknowledged, and since when

    def stalled(self, rows: Iterable[Row], now: float, limit_s: float) -> list[Row]:
        """Those that have taken nothing for `limit_s`. To be called with all rows, again and again."""
        since: dict[Client, tuple[int, float]] = {}
        for row in rows:
            if row.unread_bytes:
                acked_bytes, moment = self._since.get(row.client, (-1, now))
                since[row.client] = (row.acked_bytes, moment if acked_bytes == row.acked_bytes else now)
        self._since = since
        return [row for row in rows if row.client in since and now - since[row.client][1] > limit_s]


class Heads:
    """How long clients have taken to send the head of a request: they sent something, have no request in flight, and
    got no response since.
    """

    def __init__(self) -> None:
        self._answered: Mapping[Client, tuple[int, int, float]] = {}  # bytes acked and received at the last response

    def late(self, rows: Iterable[Row], busy: Collection[Client], now: float) -> list[Row]:
        """Those that have taken more than HEAD_S. To be called with all rows, again and again."""
        late = []
        answered: dict[Client, tuple[int, int, float]] = {}
        for row in rows:
            is_new = row.acked_bytes <= 1  # that is its SYN
            acked, received, since = self._answered.get(row.client, (row.acked_bytes if is_new else -1, 0, now))
            if row.client in busy or row.acked_bytes != acked:
                received, since = row.received_bytes, now
            elif row.received_bytes == received:
                since = now
            elif now - since > HEAD_S:
                late.append(row)
            answered[row.client] = (row.acked_bytes, received, since)
        self._answered = answered
        return late


class ClientConnections:
    """Of one worker."""

    def __init__(self, port: int, room: Room, stall_timeout_s: float) -> None:
        self._port = port
        self._room = room
        self._stall_timeout_s = stall_timeout_s
        self._look_s = min(_LOOK_S, stall_timeout_s / 4)
        self._unread = Unread()
        self._heads = Heads()
        self._last = self._earliest = -math.inf  # when the last look was, and when the next one may be
        self._logged = -math.inf
        self.full = False  # True: requests get a 503

    async def poll(self, now: float, stalled: Collection[Client], busy: Callable[[], Collection[Client]]) -> None:
        """Called several times a second. `stalled` are reset at once; `busy` returns the clients with a request."""
        try:
            free = os.dup(2)  # the lowest free one: at least so many are open, and usually no more
            os.close(free)
        except OSError:  # none is free, and the connections cannot be listed
            self.full = True
            return
        crowded = self.full or free >= self._room.served
        due = self._last + (_LOOK_CROWDED_S if crowded else self._look_s)
        if not stalled and now < max(due, self._earliest):
            return
        begun = time.monotonic()
        try:
            rows = await asyncio.to_thread(look, self._port)
        except OSError:  # the last descriptor was taken in between
            self.full = True
            return
        stuck = self._unread.stalled(rows, now, self._stall_timeout_s)
        if stuck:
            log.warning("responses not read, connections reset", clients=len(stuck))
        close(self._port, [*stuck, *(row for row in rows if row.client in stalled)], reset=True)
        ports = {port for _, port in busy()}  # the host may be spelled in two ways
        clients = {row.client for row in rows if row.client[1] in ports}
        close(self._port, self._heads.late(rows, clients, now), reset=True)
        self._make_room(rows, clients, now)
        self._last, self._earliest = now, now + _LEAST_PAUSE * (time.monotonic() - begun)

    def _make_room(self, rows: Collection[Row], busy: Collection[Client], now: float) -> None:
        crowded = len(rows) > self._room.served
        closed = surplus(rows, busy, self._room.served // 2) if crowded else []
        close(self._port, closed, reset=False)
        self.full = len(rows) - len(closed) > self._room.served
        if crowded and now - self._logged > _LOG_S:
            self._logged = now
            log.warning(
                "too many client connections",
                connections=len(rows),
                limit=self._room.served,
                closed=len(closed),
                rejecting=self.full,
            )


def _client(connection: socket.socket) -> Client:
    host, port, *_ = connection.getpeername()
    return host.partition("%")[0], str(port)  # as Granian gives it: without the zone of a link-local address

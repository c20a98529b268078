"""supervisord's XML-RPC on its unix socket. Every failure becomes a ControlError."""

import asyncio
import http.client
import re
import socket
import xmlrpc.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar
from xml.parsers.expat import ExpatError

from berth.errors import ControlError
from berth.processes import start_ticks

GROUP = "engine"  # the program group of the engines: "engine:<replica>"

_SHUTTING_DOWN = 6  # supervisord's fault numbers
_LOG_BYTES = 16 * 1024  # of supervisord's log: its last hundred or so events
_ALREADY_STARTED = 60
_NOT_RUNNING = 70

Result = TypeVar("Result")


class ProcessState(IntEnum):
    """supervisord's numbers."""

    STOPPED = 0  # never started, or stopped as asked
    STARTING = 10
    RUNNING = 20
    BACKOFF = 30
    STOPPING = 40
    EXITED = 100
    FATAL = 200
    UNKNOWN = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What supervisord says about one engine's leader."""

    state: ProcessState
    pid: int | None = None
    exit_code: int | None = None  # of the last run; -1: ended by a signal
    spawn_error: str = ""

    @property
    def alive(self) -> bool:
        return self.state in (ProcessState.STARTING, ProcessState.RUNNING, ProcessState.STOPPING)

    @property
    def never_ran(self) -> bool:
        """Supervisord could not start it; of one that ran, it calls the exit code a spawn error."""
        return bool(self.spawn_error) and self.state is not ProcessState.EXITED


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """supervisord at one moment. While it shuts down it tells nothing but that."""

    supervisord: str = ""  # this one and no other: its pid and when it started
    shutting_down: bool = False
    processes: Mapping[str, Process] = field(default_factory=dict)  # by replica


class Supervisor:
    """Calls go through one connection, one after the other, in a thread."""

    def __init__(self, socket_path: Path, *, timeout_s: float = 10.0) -> None:
        self._path = socket_path
        self._transport = _Transport(socket_path, timeout_s)
        self._proxy = xmlrpc.client.ServerProxy("http://supervisord", transport=self._transport)
        self._lock = asyncio.Lock()
        self._closed = False

    async def snapshot(self) -> Snapshot:
        return await self._call("look at the processes", self._snapshot)

    async def start(self, replica: str) -> None:
        """Returns at once; a replica that runs already is left alone."""
        await self._command(f"start {replica!r}", "startProcess", replica, _ALREADY_STARTED)

    async def stop(self, replica: str) -> None:
        """SIGTERM now and SIGKILL after the replica's stop timeout, both by supervisord. Returns at once."""
        await self._command(f"stop {replica!r}", "stopProcess", replica, _NOT_RUNNING)

    async def reload_router(self) -> None:
        """Its workers are replaced, one after the other. Returns at once."""
        await self._call("signal the router", lambda: self._proxy.supervisor.signalProcess("router", "HUP"))

    async def last_signal(self, replica: str) -> str:
        """The name of the signal that ended it, "" if it was none: only supervisord's log tells."""
        text = await self._call("show its log", lambda: str(self._proxy.supervisor.readLog(-_LOG_BYTES, 0)))
        ends = re.findall(rf"(?:exited|stopped): {re.escape(replica)} \(([^;)]*)", text)
        signal = re.match(r"terminated by (SIG\w+)", ends[-1]) if ends else None
        return signal[1] if signal else ""

    def close(self) -> None:
        """Ends the connection; the next call would open another one. A call that was cancelled goes on in its thread,
        and ends there what it opens.
        """
        self._closed = True
        self._transport.close()

    async def _command(self, what: str, method: str, replica: str, harmless: int) -> None:
        def call() -> None:
            try:
                getattr(self._proxy.supervisor, method)(f"{GROUP}:{replica}", False)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != harmless:
                    raise

        await self._call(what, call)

    async def _call(self, what: str, call: Callable[[], Result]) -> Result:
        async with self._lock:
            self._closed = False
            try:
                return await asyncio.to_thread(self._in_thread, call)
            except xmlrpc.client.Fault as fault:
                raise ControlError(f"supervisord did not {what}: {fault.faultString}") from fault
            except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError, LookupError) as error:
                raise ControlError(f"supervisord at {str(self._path)!r} does not answer: {error!r}") from error

    def _in_thread(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
        finally:
            if self._closed:
                self._transport.close()

    def _snapshot(self) -> Snapshot:
        try:
            pid: Any = self._proxy.supervisor.getPID()
            processes: Any = self._proxy.supervisor.getAllProcessInfo()
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _SHUTTING_DOWN:
                return Snapshot(shutting_down=True)
            raise
        engines = {info["name"]: _process(info) for info in processes if info["group"] == GROUP}
        return Snapshot(supervisord=identity(pid), processes=engines)


def identity(pid: int) -> str:
    """A process's number and, since numbers are reused, its start time."""
    ticks = start_ticks(pid)
    return f"{pid} {'unknown' if ticks is None else ticks}"


def _process(info: Mapping[str, Any]) -> Process:
    return Process(
        state=ProcessState(info["state"]),
        pid=info["pid"] or None,
        exit_code=info["exitstatus"] if info["stop"] else None,
        spawn_error=info["spawnerr"],
    )


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket, with a timeout: supervisord may hang too."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(str(self._path))


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = self._connection[1] or _Connection(self._path, self._timeout_s)
        self._connection = host, connection  # where the base class looks when it closes
        return connection

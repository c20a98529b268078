"""Client of supervisord's XML-RPC over its Unix socket. Every failure becomes a ControlError.

supervisor.xmlrpc.SupervisorTransport would do the same, but without a timeout.
"""

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
from berth.ipc.bench import PROGRAM
from berth.processes import start_ticks

GROUP = "engine"  # program group of the engines: "engine:<replica>"

_LOG_BYTES = 16 * 1024  # of supervisord's log: about the last hundred events

# supervisord's fault codes
_SHUTTING_DOWN = 6
_ALREADY_STARTED = 60
_NOT_RUNNING = 70

Result = TypeVar("Result")


class ProcessState(IntEnum):
    """supervisord's codes."""

    STOPPED = 0  # never started, or stopped by request
    STARTING = 10
    RUNNING = 20
    BACKOFF = 30
    STOPPING = 40
    EXITED = 100
    FATAL = 200
    UNKNOWN = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """supervisord's view of one engine, i.e. of its session leader."""

    state: ProcessState
    pid: int | None = None
    exit_code: int | None = None  # of the last run; -1: terminated by a signal
    spawn_error: str = ""

    @property
    def alive(self) -> bool:
        return self.state in (ProcessState.STARTING, ProcessState.RUNNING, ProcessState.STOPPING)

    @property
    def never_ran(self) -> bool:
        """It could not be started. (For a process that ran, `spawn_error` repeats the exit code.)"""
        return bool(self.spawn_error) and self.state is not ProcessState.EXITED


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """supervisord at one moment. While it shuts down, it reports nothing else."""

    supervisord: str = ""  # identity of this instance: its pid and start time
    shutting_down: bool = False
    processes: Mapping[str, Process] = field(default_factory=dict)  # by replica


class SupervisordClient:
    """Calls go through one connection, one at a time, in a thread."""

    def __init__(self, socket_path: Path, *, timeout_s: float = 10.0) -> None:
        self._path = socket_path
        self._transport = _Transport(socket_path, timeout_s)
        self._proxy = xmlrpc.client.ServerProxy("http://supervisord", transport=self._transport)
        self._lock = asyncio.Lock()
        self._closed = False

    async def snapshot(self) -> Snapshot:
        return await self._call("list the processes", self._snapshot)

    async def start(self, replica: str) -> None:
        """Returns immediately. No error for a replica that is already running."""
        await self._command(f"start {replica!r}", "startProcess", replica, _ALREADY_STARTED)

    async def stop(self, replica: str) -> None:
        """SIGTERM now and SIGKILL after the replica's stop timeout, both by supervisord. Returns immediately."""
        await self._command(f"stop {replica!r}", "stopProcess", replica, _NOT_RUNNING)

    async def start_bench(self) -> bool:
        """Returns immediately. False: the one before has not ended yet."""

        def call() -> bool:
            try:
                self._proxy.supervisor.startProcess(PROGRAM, False)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != _ALREADY_STARTED:
                    raise
                return False
            return True

        return await self._call(f"start {PROGRAM!r}", call)

    async def reload_router(self) -> None:
        """Replaces its workers one by one. Returns immediately."""
        await self._call("signal the router", lambda: self._proxy.supervisor.signalProcess("router", "HUP"))

    async def last_signal(self, replica: str) -> str:
        """The name of the signal that terminated it, or "". Only supervisord's log has it."""
        text = await self._call("read its log", lambda: str(self._proxy.supervisor.readLog(-_LOG_BYTES, 0)))
        ends = re.findall(rf"(?:exited|stopped): {re.escape(replica)} \(([^;)]*)", text)
        signal = re.match(r"terminated by (SIG\w+)", ends[-1]) if ends else None
        return signal[1] if signal else ""

    def close(self) -> None:
        """Closes the connection. The next call would open a new one. A cancelled call continues in its thread, which
        then closes what it has opened.
        """
        self._closed = True
        self._transport.close()

    async def _command(self, what: str, method: str, replica: str, ignored_fault: int) -> None:
        def call() -> None:
            try:
                getattr(self._proxy.supervisor, method)(f"{GROUP}:{replica}", False)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != ignored_fault:
                    raise

        await self._call(what, call)

    async def _call(self, what: str, call: Callable[[], Result]) -> Result:
        def in_thread() -> Result:
            try:
                return call()
            finally:
                if self._closed:
                    self._transport.close()

        async with self._lock:
            self._closed = False
            try:
                return await asyncio.to_thread(in_thread)
            except xmlrpc.client.Fault as fault:
                raise ControlError(f"supervisord did not {what}: {fault.faultString}") from fault
            except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError, LookupError) as error:
                raise ControlError(f"supervisord at {str(self._path)!r} does not respond: {error!r}") from error

    def _snapshot(self) -> Snapshot:
        try:
            pid: Any = self._proxy.supervisor.getPID()
            processes: Any = self._proxy.supervisor.getAllProcessInfo()
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _SHUTTING_DOWN:
                return Snapshot(shutting_down=True)
            raise
        engines = {
            info["name"]: Process(
                state=ProcessState(info["state"]),
                pid=info["pid"] or None,
                exit_code=info["exitstatus"] if info["stop"] else None,
                spawn_error=info["spawnerr"],
            )
            for info in processes
            if info["group"] == GROUP
        }
        return Snapshot(supervisord=identity(pid), processes=engines)


def identity(pid: int) -> str:
    """The pid and, since pids are reused, the start time."""
    ticks = start_ticks(pid)
    return f"{pid} {'unknown' if ticks is None else ticks}"


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, with a timeout, since supervisord may hang."""

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
        self._connection = host, connection  # where the base class finds it to close it
        return connection

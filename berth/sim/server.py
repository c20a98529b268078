"""The sockets of the simulated engine: binding, listening, refused connections, shutdown."""

import asyncio
import math
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from berth.plan import DialectName
from berth.sim.engine import Engine, Interrupt
from berth.sim.handlers import App
from berth.sim.http.connection import Connection, Connections, Handler
from berth.sim.options import Options

_BACKLOG = 2048
_CLOSE_TIMEOUT_S = 1.0
_NOISE_INTERVAL_S = 0.1


class Server:
    """One engine on its port, and its fault controls on the admin port if there is one. `tasks` outlives it."""

    def __init__(self, engine: Engine, tasks: asyncio.TaskGroup) -> None:
        self.engine = engine
        self.stopped = asyncio.Event()
        self.port = engine.options.port
        self.admin_port = engine.options.admin_port
        self._app = App(engine)
        self._tasks = tasks
        self._connections = Connections()
        self._bound: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._admin: asyncio.Server | None = None
        self._reopening: asyncio.TimerHandle | None = None
        self._noise: asyncio.Task[None] | None = None
        self._stopping = False
        engine.on_faults_changed = self.apply_faults
        kill = engine.kill

        def reset_and_kill() -> None:
            self._connections.reset()
            kill()

        engine.kill = reset_and_kill

    def bind(self, *, listen: bool) -> socket.socket:
        """OSError if the port is in use. With `listen` clients can connect, and wait."""
        host, path = self.engine.options.host, self.engine.options.uds
        bound = socket.socket(socket.AF_UNIX if path else socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            if path:
                Path(path).unlink(missing_ok=True)
                bound.bind(path)
            else:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bound.bind((host, self.port))
            if listen:
                bound.listen(_BACKLOG)
        except OSError:
            bound.close()
            raise
        self.port = self.port if path else bound.getsockname()[1]
        self._bound = bound
        return bound

    async def listen(self) -> None:
        """Starts to accept, on the bound socket if there is one. OSError if the port is in use."""
        bound = self._bound or self.bind(listen=False)
        self._bound = None
        loop = asyncio.get_running_loop()
        handle, handle_control = self._app.handle, self._app.handle_control
        create = loop.create_unix_server if self.engine.options.uds else loop.create_server
        self._listener = await create(lambda: self._connect(handle), sock=bound, backlog=_BACKLOG)
        if self.admin_port is not None and self._admin is None:
            host = self.engine.options.host
            self._admin = await loop.create_server(lambda: self._connect(handle_control), host, self.admin_port)
            self.admin_port = self._admin.sockets[0].getsockname()[1]

    def apply_faults(self) -> None:
        """Applies the active faults to the sockets and the log."""
        faults = self.engine.faults
        refuse_s = faults.value("refuse")
        if refuse_s is not None and self._listener is not None:
            self._stop_listening()
            if not math.isinf(refuse_s):
                self._reopening = asyncio.get_running_loop().call_later(refuse_s, self._end_refusing)
        elif refuse_s is None and self._listener is None and not self._stopping:
            self._tasks.create_task(self._reopen())
        if faults.value("log-noise") is not None and self._noise is None:
            self._noise = self._tasks.create_task(self._log_noise())

    def stop(self) -> None:
        """Shuts down as the engine does on SIGTERM, then sets `stopped`. A second call has no effect."""
        if self.engine.faults.value("hang-on-sigterm") is not None or self._stopping:
            return
        self._stopping = True
        match self.engine.options.dialect:
            case DialectName.SGLANG:  # accepts while it drains
                self.engine.draining = True
            case DialectName.TRTLLM:  # stops accepting, finishes what runs
                self._stop_listening()
                self._connections.close_idle()
            case _:  # aborts what runs
                self.engine.interrupt(Interrupt.SHUTDOWN)
        self._tasks.create_task(self._stop_when_idle())

    async def close(self) -> None:
        self._stopping = True
        self._stop_listening()
        if self._admin is not None:
            self._admin.close()
        if self._bound is not None:
            self._bound.close()
        if self._noise is not None:
            self._noise.cancel()
        await self._connections.close(_CLOSE_TIMEOUT_S)

    async def _stop_when_idle(self) -> None:
        await self.engine.idle.wait()
        self.stopped.set()

    def _stop_listening(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _end_refusing(self) -> None:
        self._reopening = None
        self.engine.faults.clear("refuse")
        self.apply_faults()

    async def _reopen(self) -> None:
        try:
            await self.listen()
        except OSError as error:
            log_line(f"cannot reopen port {self.port}: {error}")

    async def _log_noise(self) -> None:
        try:
            while (lines := self.engine.faults.value("log-noise")) is not None:
                for _ in range(max(1, round(lines * _NOISE_INTERVAL_S))):
                    log_line("INFO:     noise noise noise noise noise noise noise noise noise noise noise noise")
                await asyncio.sleep(_NOISE_INTERVAL_S)
        finally:
            self._noise = None

    def _connect(self, handler: Handler) -> Connection:
        return Connection(
            handler,
            self._tasks.create_task,
            connections=self._connections,
            keep_alive_s=self.engine.options.keep_alive_s,
            vary=self.engine.dialect.vary,
        )


@asynccontextmanager
async def serving(options: Options) -> AsyncIterator[Server]:
    """An engine inside this event loop, ready at once, for tests and benchmarks."""
    async with asyncio.TaskGroup() as tasks:
        server = Server(Engine(options), tasks)
        await server.listen()
        server.apply_faults()
        try:
            yield server
        finally:
            await server.close()


def log_line(line: str) -> None:
    """Writes a line of the engine's log."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()

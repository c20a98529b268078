"""Imports an engine once, and forks it on request. In the engine's interpreter, with the standard library alone.

`python server.py CONFIG`, with `Config` as JSON. Protocol, per connection at the Unix socket: the client sends one line
of JSON with `REQUEST` and the descriptors 0, 1 and 2 of the engine. It gets {"refused": why}, or {"pid": ...} and a
pidfd, later {"code": ...}: the exit code, or minus the signal. It says "ready" once the engine serves, or "stopped" if
that was to end before. If the client goes away, the engine is killed.

There is one thread, since only then every lock is free in the child. What could make a child worse than a process of
its own is refused: another environment than the one that was imported in, threads, CUDA in use, an environment that
was reinstalled. A replica that was not ready the last time is refused, too: it starts by itself.
"""

import ctypes
import gc
import importlib
import json
import multiprocessing
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REQUEST = ("replica", "argv", "environment", "folder", "umask")
LARGEST_REQUEST = 1 << 20  # bytes
MOST_STARTS = 5  # of this process, under one boot: then it gives up
MARKER = "BERTH_REPLICA"
# Where an engine starts a process that imports all of it once more. For engines without CUDA.
REPLACEMENTS: Mapping[str, Callable[..., Any]] = {
    "fork": lambda: multiprocessing.get_context("fork"),
    "call": lambda function: function(),
}
# Without threads of its own, which numpy's BLAS would make when it is imported. The engine does not see it.
QUIET = {"OPENBLAS_NUM_THREADS": "1"}
_ENV_START, _ENV_END = 47, 48  # in /proc/self/stat, after the name and the state that is field 0
_CUDA_NOT_INITIALIZED = 3


@dataclass(frozen=True)
class Config:
    socket: str
    state: str  # the file that says how it is
    script: str  # the engine's command, a Python script
    modules: Sequence[str]  # in this order; those that the engine does not have are left out
    differing: Sequence[str]  # variables that the import does not depend on
    replaced: Mapping[str, str]  # "module:function" of the engine -> which of `REPLACEMENTS` takes its place


@dataclass(eq=False)
class Client:
    connection: socket.socket
    text: bytes = b""
    descriptors: list[int] = field(default_factory=list)
    replica: str = ""
    pid: int = 0  # of its engine, which leads a session; 0: none yet, or no more


@dataclass(frozen=True)
class Start:
    """What a child is to become."""

    argv: list[str]


class Server:
    def __init__(self, config: Config, environment: Mapping[str, str], stamp: Sequence[object]) -> None:
        """`stamp`: of the engine's files, from before the import."""
        self.config = config
        self.environment = environment
        self.stamp = stamp
        self.unproven: set[str] = set()  # replicas whose last engine was never ready
        self.clients: set[Client] = set()
        self.forks = 0
        self.is_old = False
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX)
        Path(config.socket).unlink(missing_ok=True)
        before = os.umask(0o177)
        self.listener.bind(config.socket)
        os.umask(before)
        self.listener.listen(8)
        self.wakeup, self.signalled = socket.socketpair()  # SIGCHLD ends the wait for connections
        self.signalled.setblocking(False)
        signal.set_wakeup_fd(self.signalled.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.wakeup, selectors.EVENT_READ)

    def run(self) -> Start | None:
        """In a child: what it is to become. In the server itself None, once it is too old to be of use."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    client = Client(self.listener.accept()[0])
                    self.clients.add(client)
                    self.selector.register(client.connection, selectors.EVENT_READ, client)
                elif key.fileobj is self.wakeup:
                    self.wakeup.recv(4096)
                    self.reap()
                elif (start := self.hear(key.data)) is not None:
                    return start
            if self.is_old and not any(client.pid for client in self.clients):
                return None

    def hear(self, client: Client) -> Start | None:
        """What the client says next. In a child: what that is to become."""
        try:
            text, descriptors, *_ = socket.recv_fds(client.connection, 1 << 16, 3)
        except OSError:
            text, descriptors = b"", []
        client.descriptors += descriptors
        client.text += text
        if not text or len(client.text) > LARGEST_REQUEST:
            self.forget(client)
            return None
        while b"\n" in client.text:
            line, _, client.text = client.text.partition(b"\n")
            if not client.replica:
                return self.answer(client, line)
            if line in (b"ready", b"stopped"):
                self.unproven.discard(client.replica)
        return None

    def answer(self, client: Client, line: bytes) -> Start | None:
        try:
            request = json.loads(line)
            client.replica = request["replica"]
            objection = self.objection(request, client)
        except (ValueError, KeyError, TypeError) as error:
            request, objection = {}, f"it does not understand the request: {error!r}"
        if not objection:
            try:
                pid = os.fork()
            except OSError as error:
                objection = f"it cannot fork: {error.strerror}"
            else:
                if pid == 0:
                    return self.become(request, client)
                self.forked(client, pid)
                return None
        self.send(client, {"refused": objection})
        self.forget(client)
        return None

    def objection(self, request: Mapping[str, Any], client: Client) -> str:
        """Why this start is not to be a fork; "" if nothing is against it."""
        theirs = dict(request["environment"])
        skipped = {*self.config.differing, *(name for name in QUIET if name not in theirs)}
        names = sorted({*theirs, *self.environment} - skipped)
        different = [name for name in names if theirs.get(name) != self.environment.get(name)]
        if stamp_of(self.config) != self.stamp:
            self.is_old = True
            return "the engine was installed again since it was imported"
        if request["argv"][0] != self.config.script:
            return f"it starts {request['argv'][0]!r}, and {self.config.script!r} was imported"
        if len(client.descriptors) != 3:  # input, output and errors
            return f"{len(client.descriptors)} descriptors came with the request"
        if different:
            return f"its environment differs in {', '.join(different)}"
        if client.replica in self.unproven:
            return "its last start in this way did not get ready"
        return unsafe()

    def forked(self, client: Client, pid: int) -> None:
        """In the server, after a fork."""
        for descriptor in client.descriptors:
            os.close(descriptor)
        client.descriptors, client.pid = [], pid
        self.unproven.add(client.replica)
        self.forks += 1
        write_state(self.config, forks=self.forks)
        pidfd = os.pidfd_open(pid)  # it is not reaped yet, so that this is the child
        with suppress(OSError):
            socket.send_fds(client.connection, [json.dumps({"pid": pid}).encode() + b"\n"], [pidfd])
        os.close(pidfd)

    def become(self, request: Mapping[str, Any], client: Client) -> Start:
        """In the child: nothing of the server is left, and it looks like a process of its own."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        self.selector.close()
        for held in (self.listener, self.wakeup, self.signalled, *(one.connection for one in self.clients)):
            held.close()
        os.setsid()
        for place, descriptor in enumerate(client.descriptors):
            os.dup2(descriptor, place)
            os.close(descriptor)
        for descriptor in (kept for other in self.clients - {client} for kept in other.descriptors):
            os.close(descriptor)
        os.chdir(request["folder"])
        os.umask(request["umask"])
        os.environ.clear()
        os.environ.update(request["environment"])
        show_marker(request["environment"][MARKER])
        reseed()
        return Start(argv=request["argv"])

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for client in [client for client in self.clients if client.pid == pid]:
                client.pid = 0
                self.send(client, {"code": os.waitstatus_to_exitcode(status)})

    def forget(self, client: Client) -> None:
        """It has gone away, or is sent away."""
        self.selector.unregister(client.connection)
        client.connection.close()
        for descriptor in client.descriptors:
            os.close(descriptor)
        client.descriptors = []
        if client.pid:
            with suppress(ProcessLookupError):
                os.killpg(client.pid, signal.SIGKILL)
        self.clients.discard(client)

    def send(self, client: Client, message: Mapping[str, Any]) -> None:
        with suppress(OSError):  # it may have gone away
            client.connection.sendall(json.dumps(message).encode() + b"\n")


def unsafe() -> str:
    """Why this process cannot be forked; "" if it can."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        return f"it has {threads} threads, and a fork would have one of them"
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if str(path.readlink()).startswith("/dev/nvidia"):
                return "it holds a GPU open, which a fork would share"
    if cuda_is_initialized():
        return "CUDA is initialized in it, and does not survive a fork"
    return ""


def cuda_is_initialized() -> bool:
    """As the driver says. Nothing is loaded for that: what is not mapped is not initialized."""
    library = next((line.split()[-1] for line in maps() if "/libcuda.so" in line), "")
    if not library:
        return False
    context = ctypes.c_void_p()
    return bool(ctypes.CDLL(library).cuCtxGetCurrent(ctypes.byref(context)) != _CUDA_NOT_INITIALIZED)


def maps() -> list[str]:
    return Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()


def show_marker(value: str) -> None:
    """Berth finds an engine's processes by this variable in /proc/<pid>/environ, which shows the memory where the
    kernel put the first environment. Nothing else uses that memory: all variables have just been set.
    """
    text = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    start, end = int(text[_ENV_START]), int(text[_ENV_END])
    marker = os.fsencode(f"{MARKER}={value}") + b"\0"
    if len(marker) <= end - start:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, marker, len(marker))


def reseed() -> None:
    """What would be the same in all children."""
    random.seed()
    multiprocessing.current_process().authkey = os.urandom(32)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()


def stamp_of(config: Config) -> list[object]:
    """It changes when the engine is installed again, or anything into its environment."""
    home = Path(config.script).parent.parent
    found: list[object] = []
    for path in (Path(config.script), home / "pyvenv.cfg", *sorted(home.glob("lib/python*/site-packages"))):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((str(path), stat.st_mtime_ns, stat.st_ino))
    return found


def write_state(config: Config, **changes: object) -> dict[str, Any]:
    """The state with these changes. A disk that is full costs the news."""
    path = Path(config.state)
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError):
        state = {}
    state = {**state, **changes}
    with suppress(OSError):
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(json.dumps(state))
        temporary.replace(path)
    return state


def begin(config: Config) -> str:
    """Why there is nothing to import; "" if there is. An engine that is not a Python program is started as it is."""
    starts = write_state(config).get("starts", 0) + 1
    write_state(config, pid=os.getpid(), starts=starts, ready=False, problem="", forks=0)
    if starts > MOST_STARTS:
        return f"it has ended {starts - 1} times"
    try:
        compile(Path(config.script).read_bytes(), config.script, "exec")
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, SyntaxError, ValueError) as error:
        return f"{config.script!r} cannot be run by a fork: {error}"
    return ""


def load(config: Config) -> str:
    """Imports the modules. Why that is of no use; "" if it is."""
    script, sys.argv = sys.argv, [config.script]
    try:
        for place, replacement in config.replaced.items():
            module, _, function = place.partition(":")
            with suppress(ModuleNotFoundError):
                if hasattr(importlib.import_module(module), function):  # another version may have another name for it
                    setattr(sys.modules[module], function, REPLACEMENTS[replacement])
        for name in config.modules:
            with suppress(ModuleNotFoundError):
                importlib.import_module(name)
        if config.modules[0] not in sys.modules:
            return f"{config.modules[0]!r} is not installed"
    except Exception as error:  # noqa: BLE001 - whatever an engine raises
        traceback.print_exc()
        return f"the import failed: {error!r}"
    sys.argv = script
    gc.collect()
    gc.freeze()  # so that the collector of a child does not copy all of it
    return unsafe()


def main(config: Config) -> Start | None:
    """None: it has nothing to do any more, and does not have to be started again."""
    environment, began, stamp = dict(os.environ), time.monotonic(), stamp_of(config)
    os.environ.update({name: value for name, value in QUIET.items() if name not in environment})
    problem = begin(config) or load(config)
    if problem:
        write_state(config, problem=problem)
        sys.stderr.write(f"nothing is preloaded: {problem}\n")
        return None
    server = Server(config, environment, stamp)
    write_state(config, ready=True, seconds=round(time.monotonic() - began, 2))
    sys.stderr.write(f"preloaded in {time.monotonic() - began:.1f} s\n")
    start = server.run()
    if start is None:
        sys.stderr.write("the engine was installed again: it is imported again\n")
        sys.exit(1)  # supervisord starts it again
    return start


if __name__ == "__main__":
    sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).resolve().parent]
    given = Config(**json.loads(sys.argv[1]))
    sys.path.insert(0, str(Path(given.script).parent))  # as Python has it that runs the script
    wanted = main(given)
    if wanted is not None:
        sys.argv = wanted.argv
        runpy.run_path(wanted.argv[0], run_name="__main__")

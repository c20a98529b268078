"""The walk through control when an engine dies: `berth control` in this process, below a supervisord that is scripted.

It starts when supervisord is about to report the exit (the cause is in the engine's log by then), and ends when the
file of the new State replaces the old one.
"""

import json
import os
import signal
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

from etc.tools.figures.box import Box, run_command
from etc.tools.figures.recorder import Recorder
from etc.tools.figures.walk import Walk

OUT_OF_MEMORY = (
    "ERROR 10-01 12:00:00 [core.py:708] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
)
TOKEN = b'{"choices":[{"index":0,"text":".","logprobs":null,"finish_reason":"length"}]}'
IDLE_S = 2.5  # longer than any interval of control's periodic work
PATIENCE_S = 30.0
POLL_S = 0.01
NO_PID = 2**22 + 1  # above Linux's largest


def control_walks(box: Box, recorder: Recorder) -> dict[str, Walk]:
    """Walks by name. Installs an audit hook, so it needs a process of its own."""
    models = f"chat={box.model}@vllm"
    (replica,) = box.write_plan(models)["replicas"]
    supervisord = Supervisord(replica["name"], box.run_dir / "logs" / f"{replica['name']}.log")
    state, walks = box.run_dir / "state.json", list[Walk]()

    def published(event: str, arguments: tuple[Any, ...]) -> None:
        is_state = event == "os.rename" and supervisord.reported and str(arguments[1]) == str(state)
        if is_state and not walks and _status(Path(arguments[0])) != "ready":
            walks.append(recorder.stop())

    sys.addaudithook(published)
    driver = threading.Thread(target=_drive, args=(state, recorder, supervisord, walks))
    with _healthy(replica["url"]), _serving(supervisord, box.run_dir / "supervisor.sock"), recorder.installed():
        driver.start()
        run_command(["control", "--run-dir", str(box.run_dir)], box.environ(models))
    driver.join()
    return {"death": walks[0]}


class Supervisord:
    """Its responses about one engine."""

    def __init__(self, replica: str, log: Path) -> None:
        self._replica = replica
        self._log = log
        self._state = 0
        self.dies = False
        self.reported = False  # the exit

    def getPID(self) -> int:  # noqa: N802 - supervisord's name
        return os.getpid()

    def getAllProcessInfo(self) -> list[dict[str, Any]]:  # noqa: N802 - supervisord's name
        if self.dies and not self.reported:
            self._log.write_text(OUT_OF_MEMORY, encoding="utf-8")
            self.reported = True
        state, ended = (100, 1) if self.dies else (self._state, 0)
        return [
            {
                "name": self._replica,
                "group": "engine",
                "state": state,
                "pid": NO_PID if state == 20 else 0,
                "start": 1,
                "stop": ended,
                "exitstatus": ended,
                "spawnerr": "Exited too quickly (process log may have details)" if self.dies else "",
            }
        ]

    def startProcess(self, _name: str, _wait: bool) -> bool:  # noqa: N802 - supervisord's name
        self._state = 20
        return True

    def readLog(self, _offset: int, _length: int) -> str:  # noqa: N802 - supervisord's name
        return f"2026-01-01 12:00:00,000 WARN exited: {self._replica} (exit status 1; not expected)\n"


def _drive(state: Path, recorder: Recorder, supervisord: Supervisord, walks: list[Walk]) -> None:
    """In a thread of its own, since control has the main one."""
    try:
        _until(lambda: _status(state) == "ready")
        recorder.start()
        time.sleep(IDLE_S)
        recorder.stop_idle()
        recorder.start()
        supervisord.dies = True
        _until(lambda: bool(walks))
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(POLL_S)


def _status(path: Path) -> str:
    try:
        (replica,) = json.loads(path.read_bytes())["replicas"]
    except FileNotFoundError:
        return ""
    return str(replica["status"])


class _Healthy(socketserver.StreamRequestHandler):
    """200 to every request, and a token where one is requested."""

    def handle(self) -> None:
        body, answer = 0, b""
        while line := self.rfile.readline():
            name, _, value = line.lower().partition(b":")
            if name == b"content-length":
                body, answer = int(value), TOKEN
            if line == b"\r\n":
                self.rfile.read(body)
                self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
                body, answer = 0, b""


class _HealthyServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextmanager
def _healthy(url: str) -> Iterator[None]:
    """An engine whose probes succeed."""
    with _HealthyServer(url.removeprefix("unix:"), _Healthy) as server, _in_thread(server):
        yield


class _Rpc(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/RPC2",)
    disable_nagle_algorithm = False  # a Unix socket has none


class _RpcServer(socketserver.ThreadingUnixStreamServer, SimpleXMLRPCDispatcher):
    logRequests = False  # noqa: N815 - the library's name
    daemon_threads = True

    def __init__(self, path: Path) -> None:
        SimpleXMLRPCDispatcher.__init__(self, allow_none=True)
        socketserver.ThreadingUnixStreamServer.__init__(self, str(path), _Rpc)


@contextmanager
def _serving(supervisord: Supervisord, path: Path) -> Iterator[None]:
    with _RpcServer(path) as server:
        server.register_instance(SimpleNamespace(supervisor=supervisord), allow_dotted_names=True)
        with _in_thread(server):
            yield


@contextmanager
def _in_thread(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()

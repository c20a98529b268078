"""Real vLLM servers in seconds: this process imports vLLM once and forks a server on request.

Start: `vllm-python tests/fakes/vllm_fork_server.py SOCKET`. It prints "ready" when it can fork. The client is
`tests/fakes/vllm_shim.py`, which a supervisor sees in place of the server. Protocol, per connection: the client sends
one line of JSON with command line and environment, and stdout and stderr as file descriptors. It receives {"pid": ...},
and {"code": ...} when the server exits. If the client disconnects before that, the server is killed.

For tests only: server and engine share the descriptors opened before the fork, so after a SIGKILL of the server alone
its port stays in use. A server started normally does not have this problem.
"""

import ctypes
import json
import multiprocessing
import os
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
MODULES = (  # what a server imports anyway
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.openai.api_server",
    "vllm.model_executor.models.llama",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.worker.cpu_worker",
    "transformers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    pid: int  # and its session
    client: socket.socket


class ForkServer:
    """One thread, since a process with more cannot fork safely."""

    def __init__(self, path: str) -> None:
        self.selector = selectors.DefaultSelector()
        self.servers: dict[int, Server] = {}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        self.wakeup, self.signalled = socket.socketpair()  # SIGCHLD ends the wait for connections
        self.signalled.setblocking(False)
        signal.set_wakeup_fd(self.signalled.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.wakeup, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    self._start(self.listener.accept()[0])
                elif key.fileobj is self.wakeup:
                    self.wakeup.recv(4096)
                    self._reap()
                else:
                    self._hung_up(key.data)

    def _start(self, client: socket.socket) -> None:
        request, output = receive(client)
        pid = os.fork()
        if pid == 0:
            self._become_server(request, output)
        for descriptor in output:
            os.close(descriptor)
        server = Server(pid=pid, client=client)
        self.servers[pid] = server
        self.selector.register(client, selectors.EVENT_READ, server)
        client.sendall(json.dumps({"pid": pid}).encode() + b"\n")

    def _become_server(self, request: dict[str, Any], output: list[int]) -> None:
        code = 1
        try:
            self._let_go()
            os.setsid()
            end_with_parent()
            os.chdir(request["folder"])
            os.dup2(output[0], 1)
            os.dup2(output[1], 2)
            os.environ.clear()
            os.environ.update(request["environment"])
            code = serve(request["arguments"])
        except BaseException:  # noqa: BLE001 - the boundary of the process
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _let_go(self) -> None:
        """Of what is the parent's alone."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.selector.close()
        for held in (self.listener, self.wakeup, self.signalled, *(server.client for server in self.servers.values())):
            held.close()

    def _reap(self) -> None:
        while self.servers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            server = self.servers.pop(pid)
            with suppress(KeyError):  # it had hung up
                self.selector.unregister(server.client)
            with server.client as client:
                end_session(pid)
                answer(client, {"code": os.waitstatus_to_exitcode(status)})

    def _hung_up(self, server: Server) -> None:
        self.selector.unregister(server.client)
        end_session(server.pid)


def receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    text, output, *_ = socket.recv_fds(client, 2**16, 2)
    while not text.endswith(b"\n"):
        text += client.recv(2**16)
    return json.loads(text), output


def answer(client: socket.socket, message: dict[str, int]) -> None:
    with suppress(OSError):  # it may have hung up
        client.sendall(json.dumps(message).encode() + b"\n")


def end_session(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(arguments: list[str]) -> int:
    sys.argv = ["vllm", *arguments]
    try:
        import_module("vllm.entrypoints.cli.main").main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def fork_instead_of_spawn(system: Any) -> None:
    system.get_mp_context = lambda: multiprocessing.get_context("fork")


def look_at_models_here(registry: Any) -> None:
    """Not in a new process that imports all of vLLM once more, as is right where CUDA must not be touched."""
    registry._run_in_subprocess = lambda look: look()


def main() -> None:
    end_with_parent()
    path = Path(sys.argv[1])
    sys.argv = ["vllm"]
    fork_instead_of_spawn(import_module("vllm.utils.system_utils"))
    for module in MODULES:
        import_module(module)
    look_at_models_here(import_module("vllm.model_executor.models.registry"))
    path.unlink(missing_ok=True)
    fork_server = ForkServer(str(path))
    os.write(1, b"ready\n")
    fork_server.run()


if __name__ == "__main__":
    main()

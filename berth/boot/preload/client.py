"""`berth exec` in front of an engine that is forked from a preloaded one: to supervisord it is the engine."""

import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn
from urllib.parse import urlsplit

from berth import processes
from berth.ipc import reserved_file
from berth.plan import Replica, RunPaths

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
ANSWER_S = 5.0  # of the server: it forks within milliseconds, and is suspected to hang after this
PROBE_S = 0.5  # between two looks whether the engine listens
HUNG_S = 60.0  # a start that is stopped sooner was not stopped because it hung
SWEEP_S = 2.0
RELEASE_S = 2.0  # for the driver, to have the GPU memory of a process that has ended back
UNKNOWN_CODE = 1  # of an engine that ended after its server


@dataclass(kw_only=True)
class Engine:
    """The process that was forked, as far as it is known."""

    began: float = field(default_factory=time.monotonic)
    pidfd: int = -1
    pending: list[int] = field(default_factory=list)  # signals that came before it was there
    stopped_at: float | None = None
    serves: bool = False


def run_preloaded(
    paths: RunPaths, replica: Replica, preload: str, argv: Sequence[str], environment: Mapping[str, str]
) -> str:
    """Ends as the engine ends, once that is forked. Why it could not be, or was of no use: then nothing of it is left,
    signals are handled as before, and it can be started as always.
    """
    engine = Engine()
    handlers = {number: signal.signal(number, lambda number, _: forward(engine, number)) for number in FORWARDED}
    server = socket.socket(socket.AF_UNIX)
    umask = os.umask(0o077)
    os.umask(umask)
    folder = os.getcwd()  # noqa: PTH109 - text, for JSON
    request = {"replica": replica.name, "argv": list(argv), "environment": dict(environment)}
    try:
        server.settimeout(ANSWER_S)
        server.connect(str(paths.preload_socket(preload)))
        code = attend(server, engine, paths, replica, request | {"folder": folder, "umask": umask})
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = problem_of(paths, preload) or getattr(error, "strerror", None) or str(error)
    else:
        reason = code if isinstance(code, str) else ""
        if isinstance(code, int):
            if code == 0 or engine.serves or engine.stopped_at is not None:
                end_like(code)
            reason = f"the fork ended {f'by {signal.Signals(-code).name}' if code < 0 else f'with {code}'}"
    server.close()
    processes.sweep(lambda: processes.leftovers(paths, replica.name), SWEEP_S)
    time.sleep(RELEASE_S if replica.gpus and engine.pidfd >= 0 else 0)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if engine.stopped_at is not None:
        end_like(-signal.SIGTERM)
    return reason


def attend(
    server: socket.socket, engine: Engine, paths: RunPaths, replica: Replica, request: Mapping[str, object]
) -> int | str:
    """Its exit code, or minus its signal; or why there is none. OSError, or the errors of a strange answer, where the
    server is of no use.
    """
    socket.send_fds(server, [b" "], [0, 1, 2])
    server.sendall(json.dumps(request).encode() + b"\n")
    text, pidfds, *_ = socket.recv_fds(server, 4096, 1)
    answer = json.loads(text)
    if "refused" in answer:
        return str(answer["refused"])
    engine.pidfd = pidfds[0]
    record = processes.ProcessRecord.of(answer["pid"])
    with suppress(OSError):  # its environment has the other sign by which it is found
        reserved_file.write(processes.forked_record(paths, replica.name), record.to_json())
    for number in engine.pending:
        forward(engine, number)
    say(f"forked from the preloaded {replica.engine}, as process {answer['pid']}")
    return wait(server, engine, replica)


def wait(server: socket.socket, engine: Engine, replica: Replica) -> int:
    """Its exit code, or minus its signal. Where the server has ended before, the engine continues without it."""
    poll = select.poll()
    poll.register(server, select.POLLIN)
    while True:
        if not engine.serves and engine.stopped_at is None and listens(replica):
            engine.serves = True
            with suppress(OSError):
                server.sendall(b"ready\n")
        if not poll.poll(None if engine.serves else PROBE_S * 1000):
            continue
        try:
            text = server.recv(4096)
        except OSError:
            text = b""
        if text:
            if engine.stopped_at is not None and engine.stopped_at < engine.began + HUNG_S:
                with suppress(OSError):
                    server.sendall(b"stopped\n")
            return int(json.loads(text)["code"])
        poll.unregister(server)
        poll.register(engine.pidfd, select.POLLIN)
        poll.poll()
        say("ended, with an unknown code: the process that it was forked from had ended before")
        return UNKNOWN_CODE


def forward(engine: Engine, number: int, _: FrameType | None = None) -> None:
    """A signal for the engine. One that stops it soon after its start says nothing against forks."""
    if engine.pidfd < 0:
        engine.pending.append(number)
    else:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(engine.pidfd, number)
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        engine.stopped_at = time.monotonic()


def problem_of(paths: RunPaths, preload: str) -> str:
    """What the server itself says; "" where it has nothing to say."""
    try:
        state = json.loads(paths.preload_state(preload).read_bytes())
    except (OSError, ValueError):
        return "it has not started yet"
    return str(state.get("problem", "")) or ("" if state.get("ready") else "it is still importing")


def listens(replica: Replica) -> bool:
    """Engines listen once they are loaded."""
    address = urlsplit(replica.url)
    family = socket.AF_UNIX if replica.socket_path else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(PROBE_S)
        return probe.connect_ex(replica.socket_path or (address.hostname, address.port)) == 0


def end_like(code: int) -> NoReturn:
    """With the exit code, or by the signal; without a core file, which the engine has left already."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


def say(text: str) -> None:
    sys.stderr.write(f"berth exec: {text}\n")
    sys.stderr.flush()

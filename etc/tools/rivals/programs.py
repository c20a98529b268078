"""Programs that the benchmark starts: up when they answer, gone when it is over."""

import http.client
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from etc.tools.rivals.client import request_to
from etc.tools.rivals.failure import BenchError
from etc.tools.rivals.install import ROOT, make_home

_START_S = 120.0
_STOP_S = 10.0
_POLL_S = 0.1


def log_file(name: str) -> Path:
    file = make_home() / "logs" / f"{name}.log"
    file.parent.mkdir(exist_ok=True)
    return file


@contextmanager
def running(
    name: str, command: Sequence[str], url: str, *, key: str = "none", env: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Its process number, once it answers a request. BenchError, with its last words, when it does not."""
    log = log_file(name)
    environ = {**os.environ, **(env or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        _await(process, url, key, log)
        yield process.pid
    finally:
        _stop(process)


def _await(process: "subprocess.Popen[bytes]", url: str, key: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not answers(url, key):
        if process.poll() is not None:
            raise BenchError(f"{_command(process)} ended with {process.returncode}: {_last_line(log)}")
        if time.monotonic() > deadline:
            raise BenchError(f"{_command(process)} does not answer after {_START_S:g} s: {_last_line(log)}")
        time.sleep(_POLL_S)


def answers(url: str, key: str) -> bool:
    """Whether a short request is answered with 200."""
    parts = urlsplit(url)
    head, _, body = request_to(url, pace=None, key=key).partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("POST", head.split()[1].decode(), body, headers)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with suppress(ProcessLookupError):  # what it left in the session that it was started in
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _command(process: "subprocess.Popen[bytes]") -> str:
    return shlex.join(map(str, process.args)) if isinstance(process.args, list | tuple) else str(process.args)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][-300:] if lines else "it said nothing"

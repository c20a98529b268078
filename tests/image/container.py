"""A container of the image under test, watched from outside as its user would: HTTP, logs, exit codes, docker exec."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from tests.e2e.appliance import ROOT, wait_for
from tests.image.docker import IMAGE_VARIABLE, DockerError, attempt, docker, label, run_name

PYTHON = "/opt/berth/bin/python"
TINY = "/models/tiny"
TINY_MODEL = ROOT / "models/tiny"
WITH_MODEL = ("--volume", f"{TINY_MODEL}:{TINY}:ro")
QUICK = {"BERTH_WORKERS": "1", "BERTH_DRAIN_TIMEOUT": "2s"}
LIST_PROCESSES = """
import json, os, psutil
rows = []
for one in psutil.process_iter():
    try:
        row = {"pid": one.pid, "parent": one.ppid(), "uid": one.uids().effective, "argv": one.cmdline()}
        with open(f"/proc/{one.pid}/stat") as stat:
            rows.append(row | {"start_ticks": stat.read().rpartition(")")[2].split()[19]})
    except (psutil.NoSuchProcess, OSError):
        pass
print(json.dumps([row for row in rows if row["argv"] and row["pid"] != os.getpid()]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process, by its pid in the container."""

    pid: int
    parent: int
    uid: int
    argv: list[str]
    start_ticks: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A container that has run to its end."""

    code: int
    stdout: str
    stderr: str


def image() -> str:
    return os.environ[IMAGE_VARIABLE]


def variables(environ: Mapping[str, str]) -> list[str]:
    return [f"--env={name}={value}" for name, value in environ.items()]


def run_to_end(
    *command: str, options: Sequence[str] = (), timeout_s: float = 60, models: str = "", **environ: str
) -> Ended:
    """`docker run --rm` with its two streams apart; an AssertionError where it does not end."""
    name = _new_name()
    given = environ | ({"BERTH_MODELS": models} if models else {})
    arguments = ["run", "--rm", "--name", name, "--label", label(), *variables(given), *options, image(), *command]
    try:
        done = attempt(*arguments, timeout_s=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"docker {' '.join(arguments)} does not end:\n{_text(error.stdout)}") from error
    finally:
        attempt("rm", "--force", "--volumes", name)
    return Ended(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


class Container:
    """Used as a context manager: removed at its end whatever happened, and its log is shown where a test failed."""

    def __init__(
        self, models: str, *, options: Sequence[str] = (), command: Sequence[str] = (), **environ: str
    ) -> None:
        self.name = _new_name()
        given = QUICK | {"BERTH_MODELS": models} | environ
        self._arguments = ["--name", self.name, "--label", label(), "--publish", "127.0.0.1::8000"]
        self._arguments += [*variables(given), *options, image(), *command]
        self.http = httpx.Client(timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        docker("create", *self._arguments)
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            sys.stderr.write(f"\n--- what the container said before {error!r} ---\n{self.logs()[-8000:]}\n")
        self.close()

    def close(self) -> None:
        self.http.close()
        attempt("rm", "--force", "--volumes", self.name)

    def start(self) -> None:
        docker("start", self.name)
        ports = self.inspect()["NetworkSettings"]["Ports"].get("8000/tcp")
        if ports:  # none: it has ended already
            self.http.base_url = httpx.URL(f"http://127.0.0.1:{ports[0]['HostPort']}")

    def stop(self, grace_s: int = 20) -> float:
        """`docker stop`: how long it took."""
        began = time.monotonic()
        docker("stop", "--time", str(grace_s), self.name)
        return time.monotonic() - began

    def wait_ended(self, timeout_s: float = 30) -> int:
        """The exit code."""
        return int(docker("wait", self.name, timeout_s=timeout_s))

    def inspect(self) -> dict[str, Any]:
        (found,) = json.loads(docker("inspect", self.name))
        return dict(found)

    def running(self) -> bool:
        return bool(self.inspect()["State"]["Running"])

    def logs(self) -> str:
        """Both streams, in the order in which they were written as far as Docker tells."""
        done = attempt("logs", self.name)
        return done.stdout + done.stderr

    def execute(self, *command: str, options: Sequence[str] = ()) -> str:
        """Standard output of a command inside. DockerError where it fails."""
        return docker("exec", *options, self.name, *command)

    def read(self, path: str) -> str:
        return self.execute("cat", path)

    def processes(self) -> list[Process]:
        """All that show a command line, but the one that lists them."""
        return [Process(**row) for row in json.loads(self.execute(PYTHON, "-c", LIST_PROCESSES))]

    def alive(self, process: Process) -> bool:
        """By its state: where memory has run out, a process may show no command line, and Python does not start."""
        done = attempt("exec", self.name, "cat", f"/proc/{process.pid}/stat")
        if done.returncode and "No such" not in done.stderr:
            raise DockerError(done.stderr)
        _, _, fields = done.stdout.rpartition(")")
        state, start_ticks = (fields.split()[place] for place in (0, 19)) if fields else ("X", "")
        return state not in "ZX" and start_ticks == process.start_ticks

    def find(self, *words: str) -> Process:
        """The oldest with these words on its command line. LookupError where there is none."""
        found = [process for process in self.processes() if set(words) <= set(process.argv)]
        if not found:
            raise LookupError(f"no process with {words}")
        return min(found, key=lambda process: process.pid)

    def kill(self, process: Process, number: signal.Signals = signal.SIGKILL) -> None:
        """What it hangs on may take the container with it, and so the shell that kills it."""
        done = attempt("exec", self.name, "sh", "-c", f"kill -{int(number)} {process.pid}")
        assert done.returncode in (0, 128 + signal.SIGKILL), done.stderr

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def chat(self, model: str, **fields: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=chat_body(model, **fields))

    @contextmanager
    def stream(self, model: str, **fields: Any) -> Iterator[Iterator[str]]:
        """The lines of a streamed answer, those with something in them."""
        body = chat_body(model, stream=True, **fields)
        with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200, answer.read()
            yield filter(None, answer.iter_lines())

    def replicas(self) -> dict[str, Any]:
        """What /status says of each, by name."""
        models = self.get("/status").raise_for_status().json()["models"]
        return {replica["name"]: replica for model in models for replica in model["replicas"]}

    def wait_ready(self, timeout_s: float = 60) -> Self:
        return self.wait(lambda: self.get("/ready").status_code == 200, timeout_s)

    def wait(self, condition: Callable[[], bool], timeout_s: float = 60) -> Self:
        """Until the condition holds; connections may fail meanwhile, but the container must live."""

        def holds() -> bool:
            try:
                return condition()
            except (httpx.TransportError, LookupError, DockerError):
                assert self.running(), f"it has ended:\n{self.logs()}"
                return False

        wait_for(holds, timeout_s, self.logs)
        return self


def chat_body(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}


@contextmanager
def new_volume() -> Iterator[str]:
    name = _new_name()
    docker("volume", "create", "--label", label(), name)
    try:
        yield name
    finally:
        attempt("volume", "rm", "--force", name)


def in_volume(volume: str, script: str) -> None:
    """Runs a shell script as root, the volume at /data and the tiny model at hand."""
    mounts = ("--volume", f"{volume}:/data", *WITH_MODEL, "--entrypoint", "bash")
    ended = run_to_end("-ec", script, options=("--user", "0:0", *mounts))
    assert ended.code == 0, ended.stderr


def _new_name() -> str:
    return f"{run_name()}-{uuid.uuid4().hex[:10]}"


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""

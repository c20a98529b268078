"""A whole appliance under test: `berth boot` as a user starts it, watched from outside."""

import math
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
from openai import OpenAI

from berth.plan import Plan, RunPaths
from berth.state import State
from tests.fakes.plain_http import NO_AUTHORITIES
from tests.fakes.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
MARKER = "E2E_APPLIANCE"  # in the environment of everything that an appliance starts
POLL_S = 0.05
STOP_S = 15.0  # from SIGTERM to the end of everything


class Appliance:
    """Used as a context manager: at its end the appliance must stop as it should, unless that was the test.

    `models` is BERTH_MODELS; variables come on top of what makes it independent of this machine.
    """

    def __init__(self, models: str, **variables: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="berth-e2e-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self.marker = uuid.uuid4().hex
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BERTH_")},
            "CUDA_VISIBLE_DEVICES": "",
            MARKER: self.marker,
            "BERTH_MODELS": models,
            "BERTH_HOST": "127.0.0.1",
            "BERTH_PORT": str(free_port()),
            "BERTH_WORKERS": "1",
            "BERTH_RUN_DIR": str(self.folder / "run"),
            "BERTH_DATA": str(self.folder / "data"),
            "BERTH_ENGINE_HOME": str(self.folder / "engines"),
            "BERTH_OFFLINE": "true",
            "BERTH_DRAIN_TIMEOUT": "2s",
            **variables,
        }
        self.paths = RunPaths(run_dir=self.environ["BERTH_RUN_DIR"], data_dir=self.environ["BERTH_DATA"])
        cert = variables.get("BERTH_TLS_CERT")
        self.url = f"{'https' if cert else 'http'}://127.0.0.1:{self.environ['BERTH_PORT']}"
        verify = ssl.create_default_context(cafile=cert) if cert else NO_AUTHORITIES
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False, verify=verify)
        self.command = [sys.executable, "-m", "berth", "boot"]  # changed before the start: to run it elsewhere
        self.process: subprocess.Popen[bytes] | None = None
        self._output = self.folder / "output"
        self._closed = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self.stop()
            else:
                sys.stderr.write(f"\n--- what the appliance said before {error!r} ---\n{self.output()}\n")
        finally:
            self.close()

    def start(self) -> float:
        """Returns time.monotonic() of the start. An earlier life must be over."""
        if self.process is not None:
            self.process.wait(10)
        started = time.monotonic()
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )
        return started

    def started(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "start() comes first"
        return self.process

    def run_to_end(self, timeout_s: float = 30) -> int:
        """For a start that must fail: its exit code."""
        self.start()
        return self.started().wait(timeout_s)

    def stop(self, most_s: float = STOP_S) -> float:
        """SIGTERM must end all of it with exit code 0, and leave nothing. Returns the seconds that took."""
        process, began = self.started(), time.monotonic()
        if process.returncode is None:
            process.terminate()
        code = process.wait(most_s + 15)
        took_s = time.monotonic() - began
        assert code == 0, f"exit code {code}; it said:\n{self.output()}"
        assert took_s < most_s, f"it took {took_s:.1f} s to stop"
        self.wait_until_nothing_is_left(2)
        return took_s

    def close(self) -> None:
        """Whatever happened before: nothing stays."""
        if self._closed:
            return
        self._closed = True
        self.http.close()
        for process in self.processes():
            kill(process)
        if self.process is not None:
            self.process.wait(10)
        self._folder.cleanup()

    def output(self) -> str:
        logs = sorted(self.paths.logs.glob("*.log")) if self.paths.logs.is_dir() else []
        parts = [self._output, *logs] if self._output.exists() else logs
        return "\n".join(f"--- {part.name}\n{part.read_text(errors='replace')[-6000:]}" for part in parts)

    def processes(self) -> list[psutil.Process]:
        """All that belongs to this appliance and is alive."""
        return [process for process in psutil.process_iter() if _has_marker(process, self.marker)]

    def find(self, *words: str) -> psutil.Process:
        """The process with these words in its command line, the oldest of them. LookupError where there is none."""
        found = [process for process in self.processes() if set(words) <= set(_command(process))]
        if not found:
            raise LookupError(f"no process with {words} among {[_command(one) for one in self.processes()]}")
        return min(found, key=lambda process: process.create_time())

    def wait_until_nothing_is_left(self, timeout_s: float) -> None:
        wait_for(lambda: not self.processes(), timeout_s, lambda: f"left: {self.processes()}\n{self.output()}")
        for port in self.engine_ports():
            assert not is_open(port), f"something still listens on an engine's port {port}"

    def engine_ports(self) -> list[int]:
        plan = self.plan()
        started = [replica for replica in plan.replicas if replica.launch is not None and not replica.socket_path]
        return [httpx.URL(replica.url).port or 80 for replica in started]

    def plan(self) -> Plan:
        return Plan.from_json(self.paths.plan.read_bytes())

    def state(self) -> State:
        return State.from_json(self.paths.state.read_bytes())

    def wait_ready(self, timeout_s: float = 60) -> Self:
        """Every model has an engine that serves."""
        return self.wait(lambda: self.get("/ready").status_code == 200, timeout_s)

    def wait(self, condition: Callable[[], bool], timeout_s: float = 60) -> Self:
        """Until the condition holds; connections may fail meanwhile."""

        def holds() -> bool:
            assert self.started().poll() is None, f"it ended with {self.started().returncode}:\n{self.output()}"
            try:
                return condition()
            except (httpx.TransportError, OSError, LookupError):
                return False

        wait_for(holds, timeout_s, self.output)
        return self

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def replicas(self) -> dict[str, Any]:
        """What /status says of each replica, by name."""
        models = self.get("/status").raise_for_status().json()["models"]
        return {replica["name"]: replica for model in models for replica in model["replicas"]}

    def chat(self, model: str, **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def openai(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60, **options)


def wait_for(condition: Callable[[], bool], timeout_s: float, why: Callable[[], str]) -> None:
    """Asks as often as an idle machine does in this time; AssertionError after that, with the reason. On a busy machine
    it takes longer, as everything that is waited for does.
    """
    for _ in range(math.ceil(timeout_s / POLL_S)):
        if condition():
            return
        time.sleep(POLL_S)
    raise AssertionError(f"not within {timeout_s} s: {why()}")


def joined(threads: Iterable[threading.Thread], timeout_s: float) -> None:
    """AssertionError names those that do not end: what they were to find out is not known. Pytest itself fails a test
    in whose threads an exception is raised.
    """
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), f"{thread.name} does not end within {timeout_s} s"


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def end(process: psutil.Process, number: signal.Signals = signal.SIGKILL) -> None:
    """Sends the signal and waits until the process is gone."""
    process.send_signal(number)
    wait_for(lambda: not _is_alive(process), 10, lambda: f"{process} is still there")


def kill(process: psutil.Process) -> None:
    """By SIGKILL, unless it is gone already: others die of the death of their parents."""
    with suppress(psutil.NoSuchProcess):
        process.kill()


def sim_models(name: str, *engines: str, **fields: str) -> str:
    """BERTH_MODELS in YAML with simulated engines: each "dialect [argument...]"."""
    return "\n".join(_sim_lines(name, engines, fields))


def _sim_lines(name: str, engines: tuple[str, ...], fields: Mapping[str, str]) -> Iterator[str]:
    yield f"{name}:"
    yield "  source: simulated"
    yield from (f"  {field}: {value}" for field, value in fields.items())
    yield "  engines:"
    for engine in engines:
        dialect, *arguments = engine.split()
        yield f"    - {{engine: sim, dialect: {dialect}, args: {arguments!r}}}"


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _has_marker(process: psutil.Process, marker: str) -> bool:
    try:
        return process.environ().get(MARKER) == marker and _is_alive(process)
    except (psutil.Error, OSError):
        return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []

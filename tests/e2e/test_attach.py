"""An engine that somebody else runs, attached by its URL."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.e2e.appliance import Appliance, wait_for
from tests.fakes.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@contextmanager
def somebody_elses_engine(port: int, *arguments: str) -> Iterator[None]:
    command = [sys.executable, "-m", "berth", "sim", "--port", str(port), "--served-model-name", "theirs", *arguments]
    with subprocess.Popen(command) as process:
        try:
            wait_for(lambda: answers(port), 20, lambda: f"exit code {process.poll()}")
            yield
        finally:
            process.kill()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def attached(port: int, dialect: str) -> str:
    return f"m: {{engines: [{{url: 'http://127.0.0.1:{port}/v1', dialect: {dialect}, model: theirs}}], source: theirs}}"


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "trtllm"])
def test_attached_engine_serves_under_berths_model_name(dialect: str) -> None:
    port = free_port()
    with somebody_elses_engine(port, "--dialect", dialect), Appliance(attached(port, dialect)) as berth:
        answer = berth.wait_ready().chat("m")
        assert answer.status_code == 200
        assert answer.json()["model"] == "m"
        assert answer.headers["x-berth-engine"] == "remote"


def test_shorthand_attaches_an_engine() -> None:
    port = free_port()
    with (
        somebody_elses_engine(port, "--served-model-name", "m"),
        Appliance(f"m=http://127.0.0.1:{port}/v1") as berth,
    ):
        assert berth.wait_ready().chat("m").status_code == 200


def test_attached_engine_recovers() -> None:
    port = free_port()
    with Appliance(attached(port, "vllm")) as berth:
        with somebody_elses_engine(port):
            berth.wait(lambda: berth.chat("m").status_code == 200)
        berth.wait(lambda: berth.get("/ready").status_code == 503)
        answer = berth.chat("m")
        assert answer.status_code in {502, 503}
        with somebody_elses_engine(port):
            berth.wait(lambda: berth.get("/ready").status_code == 200)
            assert berth.chat("m").status_code == 200


def test_stopping_berth_keeps_an_attached_engine_running() -> None:
    port = free_port()
    with somebody_elses_engine(port):
        with Appliance(attached(port, "vllm")) as berth:
            berth.wait_ready()
        assert answers(port)

"""An engine that somebody else runs, attached by its URL."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from tests.e2e.appliance import Appliance, sim_models, wait_for
from tests.fakes.plain_http import NO_AUTHORITIES
from tests.fakes.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
DIALECTS = ("vllm", "sglang", "trtllm")


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
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False, verify=NO_AUTHORITIES).status_code == 200
    except httpx.TransportError:
        return False


def attached(port: int, dialect: str, model: str = "m") -> str:
    engine = f"{{url: 'http://127.0.0.1:{port}/v1', dialect: {dialect}, model: theirs}}"
    return f"{model}: {{engines: [{engine}], source: theirs}}"


@pytest.fixture(scope="module")
def of_each_dialect() -> Iterator[Appliance]:
    """Its models have the names of the dialects."""
    ports = {dialect: free_port() for dialect in DIALECTS}
    with ExitStack() as engines:
        for dialect, port in ports.items():
            engines.enter_context(somebody_elses_engine(port, "--dialect", dialect))
        models = "\n".join(attached(port, dialect, dialect) for dialect, port in ports.items())
        with Appliance(models) as berth:
            yield berth.wait_ready()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_attached_engine_serves_under_berths_model_name(of_each_dialect: Appliance, dialect: str) -> None:
    answer = of_each_dialect.chat(dialect)
    assert answer.status_code == 200
    assert answer.json()["model"] == dialect
    assert answer.headers["x-berth-engine"] == dialect
    assert answer.headers["x-berth-replica"] == f"{dialect}-attached"


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


def test_berths_that_are_each_others_fallback_answer_with_508() -> None:
    """The only engine of both dies, and until the next probes they take each other for ready."""
    ports = [str(free_port()), str(free_port())]
    dead = f"{{url: 'http://127.0.0.1:{free_port()}/v1', dialect: vllm}}"
    first = f"m: {{engines: [{dead}, {{url: 'http://127.0.0.1:{ports[1]}/v1'}}], source: m}}"
    second = f"m: {{engines: ['sim:vllm', {{url: 'http://127.0.0.1:{ports[0]}/v1'}}], source: m}}"
    with Appliance(second, BERTH_PORT=ports[1]) as two, Appliance(first, BERTH_PORT=ports[0]) as one:
        two.wait_ready()
        one.wait(lambda: one.replicas()["m-attached-2"]["status"] == "ready")
        two.wait(lambda: two.replicas()["m-attached"]["status"] == "ready")
        two.find("sim").kill()
        answer = one.chat("m")  # at once, before the next probes
        assert answer.status_code == 508
        assert answer.json()["error"]["code"] == "loop_detected"
        counted = [line for line in one.get("/metrics").text.splitlines() if 'status="508"' in line]
        assert any(float(line.split()[-1]) for line in counted)


def test_a_berth_that_is_attached_to_itself_does_not_start() -> None:
    port = str(free_port())
    berth = Appliance(f"m=http://localhost:{port}/v1", BERTH_PORT=port)
    assert berth.run_to_end() == 78
    assert "Berth itself listens there" in berth.output()
    berth.close()


def test_server_that_comes_later_says_what_it_is_then() -> None:
    port = free_port()
    with Appliance(f"m=http://127.0.0.1:{port}") as berth:
        berth.wait(lambda: berth.get("/ready").status_code == 503)
        with somebody_elses_engine(port, "--dialect", "vllm"):
            answer = berth.wait_ready().chat("m", top_k=1)
            assert (answer.status_code, answer.headers["x-berth-engine"]) == (200, "vllm")
            assert berth.replicas()["m-attached"]["dialect"] == "vllm"


def test_ollamas_own_api_is_spoken() -> None:
    """Another Berth serves it."""
    with Appliance(sim_models("theirs", "vllm")) as inner:
        inner.wait_ready()
        models = f"m: {{engines: [{{url: '{inner.url}', dialect: ollama, model: theirs}}], context: 2048}}"
        with Appliance(models) as berth:
            client = berth.wait_ready().openai()
            hello: Any = [{"role": "user", "content": "Hello"}]
            whole = client.chat.completions.create(model="m", messages=hello, max_tokens=5)
            assert whole.choices[0].finish_reason == "length"
            assert whole.usage is not None
            options: Any = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 5}
            chunks = list(client.chat.completions.create(model="m", messages=hello, **options))
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            assert text == whole.choices[0].message.content
            assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
            completion = client.completions.create(model="m", prompt="Hello", max_tokens=3)
            assert completion.choices[0].text
            assert berth.chat("m", n=2).json()["error"]["param"] == "n"

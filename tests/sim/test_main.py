import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from berth.sim.main import main
from tests.fakes.ports import free_port
from tests.sim.harness import CHAT, Client, get, send_request
from tests.sim.processes import orphans, sim

pytestmark = pytest.mark.slow  # a process for every test

STREAM = {**CHAT, "stream": True}


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def test_starts_quickly_and_exits_with_0_on_sigterm() -> None:
    with sim() as engine:
        assert get(engine.port(), "/health").status == 200
        engine.signal()
        assert engine.code() == 0


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_refuses_connections_while_loading(dialect: str) -> None:
    port = free_port()
    with sim("--dialect", dialect, "--load-time", "600ms", port=port) as engine:
        engine.until("50% Completed")
        assert refuses(port)
        assert engine.port() == port
        assert not refuses(port)


def test_tensorrt_llm_accepts_connections_while_loading() -> None:
    port = free_port()
    with sim("--dialect", "trtllm", "--load-time", "500ms", port=port) as engine:
        engine.until("Loading weights:  50%")
        with Client(port) as client:
            client.send("GET", "/health")
            assert client.read(silence_s=0.1).end == "silent"
            assert client.read().status == 200


def test_sglang_responds_503_while_warming_up() -> None:
    with sim("--dialect", "sglang", "--load-time", "1s") as engine:
        port = engine.port()
        assert (get(port, "/ready").status, get(port, "/ping").status) == (503, 200)
        deadline = time.monotonic() + 5
        while get(port, "/ready").status != 200:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "trtllm"])
def test_sigterm_while_loading_kills_at_once(dialect: str) -> None:
    with sim("--dialect", dialect, "--load-time", "1m") as engine:
        engine.until("")
        engine.signal()
        assert engine.code() == -signal.SIGTERM


@pytest.mark.parametrize(
    ("dialect", "stream", "frame"),
    [("vllm", True, b'data: {"error": {"message": "EngineCore encountered an issue.'), ("vllm", False, b"")],
)
def test_vllm_fails_running_requests_on_sigterm(dialect: str, stream: bool, frame: bytes) -> None:
    with sim("--dialect", dialect, "--itl", "1s") as engine, Client(engine.port()) as client:
        client.send("POST", "/v1/chat/completions", {**CHAT, "stream": stream})
        if stream:
            client.socket.recv(1, socket.MSG_PEEK)
        else:
            wait_until_running(int(client.socket.getpeername()[1]))
        engine.signal()
        reply = client.read()
        assert (reply.status, engine.code()) == (200 if stream else 500, 0)
        assert frame in reply.body
        assert reply.whole


@pytest.mark.parametrize("dialect", ["sglang", "trtllm"])
def test_draining_engines_finish_running_requests(dialect: str) -> None:
    with sim("--dialect", dialect, "--itl", "2ms") as engine:
        port = engine.port()
        with Client(port) as client, Client(port) as idle:
            client.send("POST", "/v1/chat/completions", STREAM)
            client.socket.recv(1, socket.MSG_PEEK)
            engine.signal()
            engine.signal()
            if dialect == "sglang":
                assert get(port, "/ready").status == 503
                assert send_request(port, body={**CHAT, "max_tokens": 1}).status == 200
            else:
                assert idle.socket.recv(1) == b""
            assert client.read().body.endswith(b"data: [DONE]\n\n")
        assert engine.code() == 0


def test_hang_on_sigterm_ignores_sigterm() -> None:
    with sim("--fault", "hang-on-sigterm") as engine:
        port = engine.port()
        engine.signal()
        engine.signal(signal.SIGINT)
        assert get(port, "/health").status == 200
        send_request(port, "/sim/faults", method="DELETE")
        engine.signal()
        assert engine.code() == 0


def test_exit_at_start_logs_the_engines_fatal_lines() -> None:
    with sim("--fault", "exit-at-start=17") as engine:
        assert engine.rest()[-1].startswith("RuntimeError: Engine core initialization failed.")
        assert engine.code() == 17


def test_never_ready_never_finishes_loading() -> None:
    port = free_port()
    with sim("--fault", "never-ready", "--dialect", "sglang", port=port) as engine:
        engine.until("50% Completed")
        assert refuses(port)
        assert engine.process.poll() is None


@pytest.mark.parametrize("dialect", ["vllm", "trtllm"])
def test_exits_with_1_if_the_port_is_in_use(dialect: str) -> None:
    with taken_port() as port, sim("--dialect", dialect, port=port) as engine:
        assert "ddress already in use" in engine.rest()[-1].replace("address", "Address")
        assert engine.code() == 1


def test_sglang_hangs_if_the_port_is_in_use_and_ignores_sigterm() -> None:
    with taken_port() as port, sim("--dialect", "sglang", port=port) as engine:
        engine.until("address already in use")
        engine.signal()
        with pytest.raises(subprocess.TimeoutExpired):
            engine.code(0.2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_orphan_process_outlives_its_engine(number: signal.Signals) -> None:
    with sim("--fault", "orphan") as engine:
        engine.port()
        engine.signal(number)
        assert engine.code() == (-number if number is signal.SIGKILL else 0)
        assert len(orphans(engine.process.pid)) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": [99999]}),
        ("/v1/completions", {"prompt": [-1]}),
        ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 40000}),
    ],
)
def test_some_requests_crash_sglang(path: str, body: dict[str, object]) -> None:
    with sim("--dialect", "sglang", "--itl", "1s") as engine:
        port = engine.port()
        with Client(port) as other:
            other.send("POST", "/v1/chat/completions", STREAM)
            other.socket.recv(1, socket.MSG_PEEK)
            assert send_request(port, path, body).status == 0
            assert other.read().end == "reset"
        assert engine.code() == -signal.SIGKILL


def test_exits_after_requests_or_tokens() -> None:
    with sim("--fault", "exit-after=1") as engine:
        assert send_request(engine.port(), body=CHAT).whole
        assert engine.code() == 1
    with sim("--fault", "exit-after-tokens=3") as engine:
        reply = send_request(engine.port(), body=STREAM)
        assert (reply.text, reply.whole, engine.code()) == ("The night", False, 1)


def test_ctrl_c_while_loading_exits_with_130() -> None:
    with sim("--load-time", "1m") as engine:
        engine.until("")
        engine.signal(signal.SIGINT)
        assert engine.code() == 130


def test_main_returns_the_exit_code_of_a_failed_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dialect", "trtllm", "--fault", "exit-at-start=3"]) == 3
    assert capsys.readouterr().err.endswith("RuntimeError: Executor worker returned error\n")


def wait_until_running(port: int) -> None:
    deadline = time.monotonic() + 5
    while b'vllm:num_requests_running{engine="0",model_name="sim"} 1.0' not in get(port, "/metrics").body:
        assert time.monotonic() < deadline

"""`berth router` as a process: its start, its end, and what happens to its workers."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from berth.errors import ControlError, PortInUseError
from berth.ipc.journal import Names, Reader
from berth.plan import Keys, Listen, Logs, Plan
from berth.router.main import check_port, load
from berth.state import ReplicaStatus
from tests.fakes.api_keys import api_key
from tests.fakes.router import LIMITS, RouterProcess, make_plan, publish, replica, replica_state
from tests.fakes.upstream import HANG, FakeUpstream, chat_answer, chat_frame, chat_stream, chunk, stream_head

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
PATIENT = replace(LIMITS, drain_timeout_s=0.3, token_timeout_s=60, first_token_timeout_s=60)  # with engines
Start = Callable[..., RouterProcess]

pytestmark = pytest.mark.slow


@pytest.fixture
def engine() -> Iterator[FakeUpstream]:
    with FakeUpstream() as engine:
        yield engine


@pytest.fixture
def plan(run_dir: str, engine: FakeUpstream) -> Plan:
    return make_plan(run_dir, [replica("chat-vllm", engine.url)])


@pytest.fixture
def start() -> Iterator[Start]:
    routers: list[RouterProcess] = []

    def starter(plan: Plan, keys: Keys | None = None) -> RouterProcess:
        routers.append(RouterProcess(plan, keys))
        routers[-1].await_answer()
        return routers[-1]

    yield starter
    for router in routers:
        router.end()


def test_sigterm_exits_with_0_and_frees_the_port(start: Start, plan: Plan) -> None:
    router = start(plan)
    workers = router.workers()

    assert router.stop() == 0
    assert not any(worker.is_running() for worker in workers)
    check_port(plan.listen, timeout_s=0)


def test_drain_finishes_requests_in_flight(start: Start, plan: Plan, engine: FakeUpstream) -> None:
    go = threading.Event()
    engine.answers(*chat_stream("a")[:3], go, *chat_stream("a")[3:])
    router = start(plan)
    with httpx.stream("POST", f"{router.url}/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
        parts = answer.iter_raw()
        first = next(parts)
        router.process.send_signal(signal.SIGTERM)
        router.await_true(lambda: "draining" in router.log)
        go.set()
        text = first + b"".join(parts)

    assert text.endswith(b"data: [DONE]\n\n")
    assert router.process.wait(10) == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("signals", "says"),
    [
        ((signal.SIGTERM,), "Berth is shutting down"),
        ((signal.SIGHUP, signal.SIGTERM), "Berth is shutting down"),
        ((signal.SIGHUP, signal.SIGHUP), r"router was reloaded, .* Send it again"),
    ],
)
def test_what_outlasts_the_drain_timeout_ends_with_an_error_that_says_why(
    start: Start, plan: Plan, engine: FakeUpstream, signals: tuple[signal.Signals, ...], says: str, *, stream: bool
) -> None:
    """A worker that was replaced has more time, until the router stops or is reloaded once more."""
    engine.answers(*((stream_head(), chunk(chat_frame("a")), HANG) if stream else (HANG,)))
    router = start(replace(plan, limits=PATIENT))

    def send() -> None:
        assert engine.arrived.wait(60)
        for number, sent in enumerate(signals, start=1):
            router.process.send_signal(sent)
            router.await_true(lambda number=number: router.log.count("draining") >= number)  # type: ignore[misc] # of this round

    threading.Thread(target=send).start()
    with (
        openai.OpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0, timeout=60) as client,
        pytest.raises(openai.APIError, match=says),
    ):
        list(client.chat.completions.create(**CHAT, stream=stream))  # type: ignore[call-overload] # plain dicts

    assert engine.left.wait(60)
    if signals[-1] is signal.SIGTERM:
        assert router.process.wait(60) == 0
    else:
        router.await_answer()


def test_dead_worker_is_replaced_and_its_counters_stay(start: Start, plan: Plan, engine: FakeUpstream) -> None:
    engine.answers(chat_answer())
    router = start(plan)
    httpx.post(f"{router.url}/v1/chat/completions", json=CHAT)
    (worker,) = router.workers()

    worker.kill()
    router.await_true(lambda: [w for w in router.workers() if w.pid != worker.pid])
    router.await_answer()

    assert 'status="200"} 1.0' in httpx.get(f"{router.url}/metrics").text


def test_reload_fails_no_request(start: Start, plan: Plan, engine: FakeUpstream) -> None:
    """With kept connections, and with a new one for each request."""
    engine.answers(*chat_stream("a", "b", "c"))
    router = start(replace(plan, listen=replace(plan.listen, workers=2)))
    old = {worker.pid for worker in router.workers()}
    over, answers = threading.Event(), list[str]()

    def ask(*, kept: bool) -> None:
        with httpx.Client(base_url=router.url, timeout=20) as client:
            while not over.is_set():
                headers = {} if kept else {"connection": "close"}
                try:
                    answer = client.post("/v1/chat/completions", json={**CHAT, "stream": True}, headers=headers)
                    answers.append(answer.text[-14:])
                except httpx.HTTPError as exc:
                    answers.append(repr(exc))

    clients = [threading.Thread(target=ask, kwargs={"kept": kept}) for kept in (True, True, False, False)]
    for client in clients:
        client.start()
    router.process.send_signal(signal.SIGHUP)
    router.await_true(lambda: not old & {worker.pid for worker in router.workers()}, 60)
    over.set()
    for client in clients:
        client.join()

    assert set(answers) == {"data: [DONE]\n\n"}
    assert len(router.workers()) == 2


def test_stream_outlasts_a_reload_and_the_deaths_of_new_workers(start: Start, plan: Plan, engine: FakeUpstream) -> None:
    """The drain timeout is for the end of Berth. And nobody waits for the worker that leaves: the dead are replaced."""
    go = threading.Event()
    engine.answers(*chat_stream("a")[:3], go, *chat_stream("a")[3:])
    router = start(replace(plan, limits=PATIENT))
    (old,) = router.workers()
    with httpx.stream("POST", f"{router.url}/v1/chat/completions", json={**CHAT, "stream": True}, timeout=60) as answer:
        parts = answer.iter_raw()
        first = next(parts)
        router.process.send_signal(signal.SIGHUP)
        router.await_true(lambda: "replaced=True" in router.log)
        for _ in range(3):
            (new,) = (worker for worker in router.workers() if worker.pid != old.pid)
            new.kill()
            router.await_true(lambda new=new: {worker.pid for worker in router.workers()} - {old.pid, new.pid})  # type: ignore[misc] # of this round
            router.await_answer()
        go.set()
        text = first + b"".join(parts)

    assert text.endswith(b"data: [DONE]\n\n")
    psutil.wait_procs([old], timeout=15)
    assert not old.is_running()


def test_one_worker_that_dies_again_and_again_ends_no_other(start: Start, plan: Plan, engine: FakeUpstream) -> None:
    go = threading.Event()
    engine.answers(*chat_stream("a")[:3], go, *chat_stream("a")[3:])
    router = start(replace(plan, limits=PATIENT, listen=replace(plan.listen, workers=2)))
    with httpx.stream("POST", f"{router.url}/v1/chat/completions", json={**CHAT, "stream": True}, timeout=60) as answer:
        parts = answer.iter_raw()
        first = next(parts)
        port = int(engine.url.rpartition(":")[2])
        for _ in range(3):
            all_of_them = router.workers()
            streams = {one for one in all_of_them if any(c.raddr[1:] == (port,) for c in one.net_connections())}
            (idle,) = set(all_of_them) - streams
            idle.kill()
            router.await_true(lambda before=set(all_of_them): len(set(router.workers()) - before) == 1)  # type: ignore[misc] # of this round
            router.await_true(lambda: all(worker.net_connections("tcp") for worker in router.workers()))
        go.set()
        text = first + b"".join(parts)

    assert text.endswith(b"data: [DONE]\n\n")


def test_workers_that_fail_at_their_start_end_the_router(start: Start, plan: Plan) -> None:
    """It is left to supervisord to start it again."""
    router = start(plan)
    plan.paths.keys.unlink()
    router.workers()[0].kill()

    assert router.process.wait(60) == 1
    assert "workers fail at their start" in router.log
    assert "keys" in router.log


def test_workers_end_with_their_parent(start: Start, plan: Plan) -> None:
    router = start(plan)
    workers = router.workers()

    router.stop(signal.SIGKILL)

    assert psutil.wait_procs(workers, timeout=5)[1] == []


def test_metrics_sum_several_workers(start: Start, plan: Plan, engine: FakeUpstream) -> None:
    engine.answers(chat_answer())
    router = start(replace(plan, listen=replace(plan.listen, workers=2)))
    router.await_true(lambda: "berth_router_workers 2.0" in httpx.get(f"{router.url}/metrics").text)

    for _ in range(20):
        httpx.post(f"{router.url}/v1/chat/completions", json=CHAT)

    assert (
        'berth_requests_total{model="chat",operation="chat",status="200"} 20.0'
        in httpx.get(f"{router.url}/metrics").text
    )


def test_keys_guard_the_apis_and_are_not_logged(start: Start, plan: Plan, engine: FakeUpstream) -> None:
    engine.answers(chat_answer())
    keys = Keys(api_keys=(api_key("opensesame"),), upstream_keys={"chat-vllm": "the-engines-key"})
    publish(plan, replica_state("chat-vllm", ReplicaStatus.READY))
    router = start(plan, keys)
    statuses = {path: httpx.get(router.url + path).status_code for path in ("/health", "/ready", "/metrics")}
    closed = {path: httpx.get(router.url + path).status_code for path in ("/status", "/v1/models", "/v1/models/chat")}

    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="wrong-key") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(**CHAT)  # type: ignore[call-overload] # plain dicts
    with openai.OpenAI(base_url=f"{router.url}/v1", api_key="opensesame") as client:
        client.chat.completions.create(**CHAT)  # type: ignore[call-overload] # plain dicts

    assert set(statuses.values()) == {200}
    assert set(closed.values()) == {401}
    assert caught.value.code == "invalid_api_key"
    assert engine.requests[0].headers["authorization"] == "Bearer the-engines-key"
    assert not any(word in router.log for word in ("opensesame", "wrong-key", "the-engines-key"))


def test_requests_that_are_invalid_have_the_name_of_their_key(start: Start, plan: Plan) -> None:
    keys = Keys(api_keys=(api_key("opensesame", name="alice", slot=1),))
    router = start(plan, keys)
    reader = Reader(plan.paths.journal, Names(plan, keys.names()))
    for key in ("wrong-key", "opensesame"):
        body = {**CHAT, "messages": []}
        httpx.post(f"{router.url}/v1/chat/completions", json=body, headers={"x-api-key": key})
    router.await_true(reader.finished)
    assert [(record.key, record.status) for record in reader.finished()] == [("alice", 400)]
    reader.close()


def test_replica_that_control_reports_down_gets_no_requests(start: Start, plan: Plan) -> None:
    """The state is read again while the router runs, and the last good one outlives control."""
    router = start(plan)
    publish(plan, replica_state("chat-vllm", ReplicaStatus.UNHEALTHY))
    router.await_true(lambda: httpx.get(f"{router.url}/ready").status_code == 503)
    plan.paths.state.write_bytes(b"{")
    router.await_true(lambda: "cannot read state file" in router.log)

    assert httpx.get(f"{router.url}/ready").status_code == 503


def test_json_logs_are_json(start: Start, plan: Plan) -> None:
    router = start(replace(plan, logs=Logs(format="json")))
    router.workers()[0].kill()
    router.await_true(lambda: "Unexpected exit" in router.log)
    router.stop()

    assert all(line.startswith('{"time":') for line in router.log.splitlines())


def run(run_dir: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "berth", "router", "--run-dir", run_dir]
    return subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)


@pytest.mark.parametrize("text", [None, b"{", b'{"version": 99}'])
def test_missing_plan_prevents_start(run_dir: str, text: bytes | None) -> None:
    if text is not None:
        Path(run_dir, "plan.json").write_bytes(text)

    result = run(run_dir)

    assert result.returncode == 69
    assert "plan.json' cannot be read" in result.stderr


def test_port_in_use_is_an_error(plan: Plan) -> None:
    plan.paths.plan.write_bytes(plan.to_json())
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((plan.listen.host, plan.listen.port))
        holder.listen()

        with pytest.raises(PortInUseError, match=r"Address already in use. Set BERTH_PORT to a free port"):
            check_port(plan.listen, timeout_s=0.2)


def test_foreign_address_is_an_error() -> None:
    with pytest.raises(PortInUseError, match=r"Cannot listen on 192\.0\.2\.77:8000"):
        check_port(Listen(host="192.0.2.77", port=8000, workers=1), timeout_s=0)


def test_full_run_directory_is_an_error(plan: Plan) -> None:
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.scoreboard.mkdir()
    Path(plan.paths.scoreboard, "x").touch()

    result = run(plan.paths.run_dir)

    assert result.returncode == 73
    assert "Cannot write" in result.stderr


def test_worker_without_its_files_does_not_start(plan: Plan) -> None:
    plan.paths.plan.write_bytes(plan.to_json())

    with pytest.raises(ControlError):
        load(plan.paths.run_dir)

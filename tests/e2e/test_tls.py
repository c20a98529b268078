"""Clients that use TLS: an official SDK, HTTP/2, and a certificate that is renewed while Berth serves."""

import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import DefaultHttpxClient, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from berth.apis.stream_events import ANTHROPIC, CHAT, OLLAMA
from berth.ipc import traffic
from tests.e2e.appliance import Appliance, end, sim_models
from tests.fakes import certificates
from tests.fakes.http2 import Http2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ANY = ssl.create_default_context()  # trusts whom it meets
ANY.check_hostname, ANY.verify_mode = False, ssl.CERT_NONE
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def cert() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="berth-") as folder:
        yield certificates.make(Path(folder))[0]


@pytest.fixture(scope="module")
def berth(cert: str) -> Iterator[Appliance]:
    models = sim_models("m", "vllm --itl 20ms --context 100000")
    with Appliance(models, BERTH_TLS_CERT=cert, BERTH_TLS_KEY=cert.replace("cert.pem", "key.pem")) as berth:
        yield berth.wait_ready()


def test_official_client_streams_over_tls(berth: Appliance, cert: str) -> None:
    trusted = DefaultHttpxClient(verify=ssl.create_default_context(cafile=cert), trust_env=False)
    with OpenAI(base_url=f"{berth.url}/v1", api_key="-", http_client=trusted, max_retries=0) as client:
        chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert chunks[-1].choices[0].finish_reason


def test_browsers_get_http2(berth: Appliance, cert: str) -> None:
    _, protocol = handshake(berth, cert, "h2", "http/1.1")
    assert protocol == "h2"


@pytest.fixture
def slow_and_long(cert: str, tmp_path: Path) -> Iterator[Appliance]:
    """One model needs some seconds for a response, the other one has more than fits into a window."""
    text = tmp_path / "text"
    text.write_text("word " * 4000)
    models = [("slow", "vllm --itl 60ms"), ("long", f"vllm --itl 0 --context 100000 --text-file {text}")]
    options = {"BERTH_TLS_CERT": cert, "BERTH_TLS_KEY": cert.replace("cert.pem", "key.pem")}
    options["BERTH_CLIENT_STALL_TIMEOUT"] = "1s"
    with Appliance("\n".join(sim_models(*model) for model in models), **options) as berth:
        yield berth.wait_ready()


def test_streams_of_one_connection_end_each_for_itself(slow_and_long: Appliance, cert: str) -> None:
    berth = slow_and_long
    ask: dict[str, Any] = {"model": "slow", "messages": MESSAGES, "stream": True, "max_tokens": 200}
    with Http2(int(berth.environ["BERTH_PORT"]), cert, window=10_000) as client:
        whole = {client.post(api.paths[0], ask): api for api in (CHAT, ANTHROPIC, OLLAMA)}
        reset = client.post("/v1/chat/completions", ask)
        stalled = client.post("/v1/chat/completions", {**ask, "model": "long", "max_tokens": 4000})
        client.unread.add(stalled)
        client.read_until(lambda: bool(client.bodies[reset]))
        client.reset(reset)
        client.read_until(lambda: whole.keys() <= client.ends.keys())
        for stream, api in whole.items():
            lines = [line.removeprefix(b"data: ") for line in client.bodies[stream].split(b"\n")]
            *_, last = (api.last(line) for line in lines if line.startswith((b"{", b"[")))
            assert (client.ends[stream], last) == ("end", api.complete[0])
        assert stalled not in client.ends

        client.open(stalled)
        client.read_until(lambda: stalled in client.ends)
        assert (client.ends[stalled], b"[DONE]" in client.bodies[stalled]) == ("reset", False)
    assert "client stalled, request aborted" in berth.output()
    berth.wait(lambda: 'berth_requests_in_flight{model="slow"} 0.0' in berth.get("/metrics").text)


def test_plain_http_is_refused(berth: Appliance) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(berth.url.replace("https", "http"), trust_env=False)


def test_a_renewed_certificate_is_taken_over_without_a_lost_request(berth: Appliance, cert: str) -> None:
    """Requests come on new connections all the time, and a stream runs from before the change until after it."""
    before, _ = handshake(berth, cert)
    workers = set(traffic.workers(berth.paths.heartbeats).values())
    clients = Clients(f"{berth.url}/v1/chat/completions")
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(clients.ask), pool.submit(clients.read)]
        try:
            berth.wait(lambda: bool(clients.statuses and clients.lines))
            certificates.make(Path(cert).parent, days=60)
            berth.wait(lambda: served(berth, cert) not in (None, before))
        finally:
            clients.renewed.set()
        for one in running:
            one.result(60)
    berth.wait(lambda: not workers & set(traffic.workers(berth.paths.heartbeats).values()))
    assert (set(clients.statuses), [line for line in clients.lines if "error" in line]) == ({200}, [])


class Clients:
    """Of a server whose certificate is `renewed` meanwhile."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = httpx.Client(verify=ANY, trust_env=False, timeout=60)
        self.renewed = threading.Event()
        self.statuses: list[int] = []
        self.lines: list[str] = []

    def ask(self) -> None:
        """Each time on a new connection."""
        body = {"model": "m", "messages": MESSAGES, "max_tokens": 2}
        while not self.renewed.is_set():
            answer = self._http.post(self._url, json=body, headers={"connection": "close"})
            self.statuses.append(answer.status_code)

    def read(self) -> None:
        """One stream, until 20 lines after it."""
        left = 20
        endless = {"model": "m", "messages": MESSAGES, "stream": True, "max_tokens": 50_000, "ignore_eos": True}
        with self._http.stream("POST", self._url, json=endless) as answer:
            for line in answer.iter_lines():
                self.lines.append(line)
                left -= self.renewed.is_set()
                if not left:
                    return
        raise AssertionError(self.lines[-3:])


def test_a_certificate_that_cannot_be_used_fails_the_reload_alone(berth: Appliance, cert: str, tmp_path: Path) -> None:
    before, _ = handshake(berth, cert)
    key, (_, other) = Path(cert).with_name("key.pem"), certificates.make(tmp_path)
    own = key.read_bytes()
    key.write_bytes(Path(other).read_bytes())
    assert "key values mismatch" in failed_reload(berth)
    key.unlink()
    assert f"BERTH_TLS_KEY={str(key)!r}: No such file" in failed_reload(berth)
    router = berth.find("router")
    (worker,) = [process for process in router.children() if "router" in process.cmdline()]
    end(worker)
    berth.wait(lambda: served(berth, cert) == before)
    assert berth.find("router").pid == router.pid
    berth.wait(lambda: "TLS certificate unchanged" in berth.output())
    key.write_bytes(own)


def failed_reload(berth: Appliance) -> str:
    command = [sys.executable, "-m", "berth", "reload", "--wait", "30"]
    done = subprocess.run(command, env=berth.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stdout


def served(berth: Appliance, cert: str) -> Any:
    """The server's certificate; None when no worker listens, or when it is another one than `cert`."""
    try:
        return handshake(berth, cert)[0]
    except OSError:
        return None


def test_an_expired_certificate_prevents_the_start(tmp_path: Path) -> None:
    cert, key = certificates.make(tmp_path, days=-1)
    berth = Appliance("m=simulated@sim", BERTH_TLS_CERT=cert, BERTH_TLS_KEY=key)
    assert berth.run_to_end() != 0
    assert "certificate has expired" in berth.output()
    assert "BERTH_TLS_CERT" in berth.output()
    berth.close()


def handshake(berth: Appliance, cert: str, *protocols: str) -> tuple[Any, str | None]:
    """The server's certificate, and the protocol of those that were offered."""
    context = ssl.create_default_context(cafile=cert)
    context.set_alpn_protocols(protocols or ["http/1.1"])
    plain = socket.create_connection(("127.0.0.1", int(berth.environ["BERTH_PORT"])), timeout=10)
    with context.wrap_socket(plain, server_hostname="localhost") as connected:
        return connected.getpeercert(), connected.selected_alpn_protocol()

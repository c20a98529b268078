"""Caddy in front of Berth, as compose.yaml's profile starts it: its file, and a real Caddy where there is one."""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from berth.state import ReplicaStatus
from tests.e2e.appliance import is_open, wait_for
from tests.fakes.http2 import Http2
from tests.fakes.ports import free_port
from tests.fakes.router import RouterProcess, make_plan, publish, replica, replica_state
from tests.fakes.upstream import LAST_CHUNK, FakeUpstream, chat_frame, chunk, stream_head

ROOT = Path(__file__).resolve().parents[2]
CADDYFILE = ROOT / "etc/caddy/Caddyfile"
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
CADDY = shutil.which("caddy")
needs_caddy = pytest.mark.skipif(CADDY is None, reason="there is no caddy on PATH (Debian: apt-get install caddy)")


def test_the_profile_is_optional_pinned_and_has_few_rights() -> None:
    service = COMPOSE["services"]["caddy"]
    assert service["profiles"] == ["tls"]
    assert re.fullmatch(r"caddy:\d+\.\d+\.\d+", service["image"])
    assert (service["cap_drop"], service["cap_add"]) == (["ALL"], ["NET_BIND_SERVICE"])
    assert service["read_only"]
    mounts = dict(mount.split(":")[:2] for mount in service["volumes"])
    assert mounts == {"./etc/caddy": "/etc/caddy", "caddy": "/data"}
    assert "caddy" in COMPOSE["volumes"]
    assert CADDYFILE == ROOT / "etc/caddy" / "Caddyfile"  # where the image looks for it


def test_every_variable_of_the_file_has_a_default_and_the_profile_sets_the_users() -> None:
    named = dict(re.findall(r"\{\$([A-Z_]+):?([^}]*)\}", CADDYFILE.read_text()))
    assert all(named.values())
    assert COMPOSE["services"]["caddy"]["environment"].keys() == {"DOMAIN", "TLS_BY"} < named.keys()
    assert named["UPSTREAM"] == "berth:8000"
    assert set(re.findall(r"^\((\w+)\)", CADDYFILE.read_text(), re.MULTILINE)) == {"public", "internal"}


def caddy(*arguments: str, **variables: str) -> "subprocess.Popen[str]":
    assert CADDY is not None
    environ = {"PATH": os.environ["PATH"], **variables}
    return subprocess.Popen(
        [CADDY, *arguments], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@needs_caddy
@pytest.mark.parametrize("authority", ["public", "internal"])
def test_caddy_accepts_the_file(tmp_path: Path, authority: str) -> None:
    process = caddy("adapt", "--config", str(CADDYFILE), HOME=str(tmp_path), DOMAIN="ai.example.org", TLS_BY=authority)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert '"flush_interval":-1' in said
    assert ('"module":"internal"' in said) == (authority == "internal")
    with_format = caddy("fmt", str(CADDYFILE), HOME=str(tmp_path))
    assert with_format.communicate(timeout=120)[0] == CADDYFILE.read_text()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """An engine behind the router behind Caddy."""
    with FakeUpstream() as engine:
        plan = replace(make_plan(str(tmp_path), [replica("chat-vllm", engine.url)]), trusted_proxies=("127.0.0.1/32",))
        publish(plan, replica_state("chat-vllm", ReplicaStatus.READY))
        router = RouterProcess(plan)
        port = free_port()
        home = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
        process = caddy(
            *("run", "--config", str(CADDYFILE)),
            **home,
            TLS_BY="internal",
            HTTP_PORT=str(free_port()),
            HTTPS_PORT=str(port),
            UPSTREAM=f"127.0.0.1:{plan.listen.port}",
        )
        root = tmp_path / "caddy/pki/authorities/local/root.crt"
        try:
            router.await_answer()
            wait_for(lambda: is_open(port) and root.exists(), 60, lambda: f"exit code {process.poll()}")
            yield SimpleNamespace(engine=engine, port=port, root=str(root))
        finally:
            process.terminate()
            process.communicate(timeout=60)
            router.end()


@needs_caddy
@pytest.mark.timeout(180)
def test_streams_pass_caddy_token_by_token_over_http2(box: SimpleNamespace) -> None:
    """The engine says its second token when the client has the first one."""
    arrived = threading.Event()
    first, second = chunk(chat_frame("first")), chunk(chat_frame("second", finish="stop"))
    box.engine.answers(
        stream_head(), chunk(chat_frame(role=True)), first, arrived, second, chunk(b"data: [DONE]\n\n"), LAST_CHUNK
    )
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "stream": True}

    with Http2(box.port, box.root) as client:
        stream = client.post("/v1/chat/completions", body)
        client.read_until(lambda: b"first" in client.bodies[stream] or stream in client.ends, timeout_s=60)
        assert b"first" in client.bodies[stream], client.bodies[stream]
        assert b"second" not in client.bodies[stream]
        arrived.set()
        client.read_until(lambda: stream in client.ends, timeout_s=60)

    assert client.ends[stream] == "end"
    assert b"second" in client.bodies[stream]

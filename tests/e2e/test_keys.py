"""Clients with names: one appliance of two router workers, its keys in a file, in front of simulated engines."""

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from berth.plan.keys import digest
from tests.accounts.limits import key_of
from tests.accounts.usage import KILLS, Told, pair, written
from tests.e2e.appliance import ROOT, Appliance, sim_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SPENDERS = ("dan", "erin")
KEYS = f"""
alice: {{key: key-of-alice-0123456789, models: [m]}}
bob: {{key: key-of-bob-0123456789, requests_per_minute: 6, tokens_per_day: 1k}}
carol: {{key: key-of-carol-0123456789, priority: normal}}
dan: {{key: {key_of("dan")}}}
erin: {{key: {key_of("erin")}}}
"""


@pytest.fixture(scope="module")
def berth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    file.write_text(KEYS)
    models = f"{sim_models('m', 'vllm')}\n{pair('other')}"
    with Appliance(models, BERTH_WORKERS="2", BERTH_API_KEYS_FILE=str(file)) as appliance:
        appliance.wait_ready()
        yield appliance


def ask(
    berth: Appliance, who: str, path: str = "/v1/chat/completions", *, priority: str = "normal", **fields: Any
) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **fields}
    headers = {"x-api-key": f"key-of-{who}-0123456789", "x-priority": priority}
    if path.startswith("/v1/models"):
        return httpx.get(f"{berth.url}{path}", headers=headers, trust_env=False)
    return httpx.post(f"{berth.url}{path}", json=body, headers=headers, timeout=30, trust_env=False)


def command(berth: Appliance, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "berth", *words],
        env=berth.environ,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_key_sees_and_uses_its_own_models(berth: Appliance) -> None:
    assert [model["id"] for model in ask(berth, "alice", "/v1/models").json()["data"]] == ["m"]
    assert len(ask(berth, "carol", "/v1/models").json()["data"]) == 2
    assert ask(berth, "carol", priority="high").headers["x-berth-ignored"] == "x-priority"
    assert "x-berth-ignored" not in ask(berth, "alice", priority="high").headers
    refused = ask(berth, "alice", model="other")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    assert (
        ask(berth, "alice", "/v1/messages", model="other", max_tokens=5).json()["error"]["type"] == "permission_error"
    )


def refused(berth: Appliance, path: str = "/v1/chat/completions") -> httpx.Response:
    """On a slow machine one more request may have become possible meanwhile."""
    answers = (ask(berth, "bob", path, max_tokens=1) for _ in range(3))
    return next(answer for answer in answers if answer.status_code == 429)


def test_a_limit_holds_over_the_workers_in_each_apis_words(berth: Appliance) -> None:
    """Each request comes on a connection of its own, so that both workers get some. 6 a minute: one in 10 s."""
    began = time.monotonic()
    answers = [ask(berth, "bob", max_tokens=1) for _ in range(6)]
    took_s = time.monotonic() - began

    assert answers[0].status_code == 200
    assert Counter(answer.status_code for answer in answers[1:])[429] >= 5 - took_s // 10
    headers = next(answer for answer in answers if answer.status_code == 429).headers
    assert 9 - took_s <= int(headers["retry-after"]) <= 10
    assert 0 < int(headers["retry-after-ms"]) <= 10_000
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("6", "0")
    assert refused(berth).json()["error"]["code"] == "rate_limit_exceeded"
    anthropic = refused(berth, "/v1/messages")
    assert anthropic.json()["error"]["type"] == "rate_limit_error"
    assert anthropic.headers["anthropic-ratelimit-requests-limit"] == "6"
    ollama = refused(berth, "/api/chat")
    assert "x-ratelimit-limit-requests" not in ollama.headers
    assert "bob" in ollama.json()["error"]


def test_keys_change_without_a_restart(berth: Appliance) -> None:
    file = Path(berth.environ["BERTH_API_KEYS_FILE"])
    with file.open("a") as text:
        text.write(f"dave: {{sha256: {digest('key-of-dave-0123456789')}}}\n")
    berth.wait(lambda: ask(berth, "dave").status_code == 200, 10)  # 3 s on a machine that does nothing else
    with file.open("a") as text:
        text.write("broken: {share: x}\n")
    berth.wait(lambda: "API keys unchanged" in berth.output(), 20)
    assert ask(berth, "dave").status_code == 200
    assert "dave" in command(berth, "key", "list")


def test_operator_gets_a_key_without_an_admin_key(berth: Appliance) -> None:
    assert httpx.get(f"{berth.url}/admin/audit", trust_env=False).status_code == 404
    given = command(berth, "key", "admin").strip()
    headers = {"authorization": f"Bearer {given}"}
    pin = httpx.post(
        f"{berth.url}/admin/operations", json={"action": "pin", "model": "m"}, headers=headers, trust_env=False
    )
    assert pin.status_code == 200, pin.text
    entries = httpx.get(f"{berth.url}/admin/audit?n=9", headers=headers, trust_env=False).json()["entries"]

    (found,) = [entry for entry in entries if entry["what"] == "pin"]
    assert (found["who"], found["origin"], found["target"]) == ("a key of `berth key admin`", "127.0.0.1", "m")
    assert {entry["what"] for entry in entries} >= {"boot", "keys", "pin"}
    assert "pin m: done" in command(berth, "audit", "-n", "5")
    assert given not in berth.output()


def test_an_operator_captures_requests_and_nothing_of_them_is_on_the_disk(berth: Appliance) -> None:
    """Of both workers: each request comes on a connection of its own."""
    texts = {"role": "user", "content": "a sentence that stands nowhere else"}
    given = {"authorization": f"Bearer {command(berth, 'key', 'admin').strip()}"}
    ask(berth, "carol", messages=[texts])
    assert "capturing all key=carol max=50 until" in command(
        berth, "capture", "on", "--for", "5m", "--key", "carol", "--max", "50"
    )
    assert all("x-berth-captured" in ask(berth, "carol", messages=[texts]).headers for _ in range(6))  # from now on
    paths = ("/v1/chat/completions", "/v1/messages", "/api/chat")
    answers = [ask(berth, "carol", path, messages=[texts], max_tokens=5) for path in paths for _ in range(4)]
    assert "x-berth-captured" in ask(berth, "alice").headers  # it was recorded, and then left out
    listed = berth.wait(lambda: command(berth, "capture", "list").count("  carol  m  200  ") > len(answers))
    assert "alice" not in command(listed, "capture", "list")
    number = answers[5].headers["x-request-id"]

    shown = command(berth, "capture", "show", number)
    document = httpx.get(f"{berth.url}/admin/capture/{number}", headers=given, trust_env=False)
    curl = command(berth, "capture", "show", number, "--as", "curl")

    assert ">> POST /v1/messages" in shown
    assert shown.count(texts["content"]) == 2  # as the client sent it, and as the engine got it
    assert document.json()["exchanges"][0]["response"]["body"] == answers[5].text
    assert document.headers["cache-control"] == "no-store"
    assert curl.startswith(f"curl -sN -X POST {berth.url.replace('127.0.0.1', 'localhost')}/v1/messages")
    assert "key-of-carol" not in shown + curl + document.text
    files = [file for file in berth.folder.rglob("*") if file.is_file()]
    assert [file for file in files if texts["content"].encode() in file.read_bytes()] == []


def test_a_capture_is_ended_and_audited(berth: Appliance) -> None:
    given = {"authorization": f"Bearer {command(berth, 'key', 'admin').strip()}"}
    started = httpx.post(f"{berth.url}/admin/capture", headers=given, trust_env=False)
    assert started.json()["current"]["only"] == "all"
    posted = httpx.post(f"{berth.url}/admin/capture", json={"for_s": 0}, headers=given, trust_env=False)
    assert (posted.status_code, posted.json()["current"]) == (200, None)
    wrong = httpx.post(f"{berth.url}/admin/capture", json={"for_s": 9, "model": "x"}, headers=given, trust_env=False)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "unknown_model")
    assert httpx.get(f"{berth.url}/admin/capture", trust_env=False).status_code == 404
    assert "nothing is being captured" in command(berth, "capture", "off")
    assert httpx.delete(f"{berth.url}/admin/capture", headers=given, trust_env=False).json()["exchanges"] == []
    audited = command(berth, "audit", "-n", "20")
    assert all(f"capture {action}" in audited for action in ("start", "show", "end", "clear"))


def test_usage_is_what_the_clients_were_told_whatever_is_killed(berth: Appliance) -> None:
    """An engine, a worker and control: who got a whole response was counted, once. `make accounts` is the long form."""
    before = written(berth, SPENDERS)
    told = Told(berth, "other", SPENDERS)
    asyncio.run(told.run(90))
    assert (set(told.killed), set(told.results) - {"whole", "lost"}) == (set(KILLS), set())
    assert told.results["whole"] > told.results["lost"]

    berth.wait_ready()
    for form, after in written(berth, SPENDERS).items():
        for who, (prompt, completion) in told.tokens().items():
            was = before[form].get(who, (0, 0))
            assert (form, after[who]) == (form, (was[0] + prompt, was[1] + completion))

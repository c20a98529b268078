"""Rules in a whole appliance, with the official SDKs below a prefix: two engines that serve one model."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.e2e.appliance import ROOT, Appliance

MODELS = """
m: {source: any, engines: ["sim:vllm", "sim:sglang"], standby: hot}
e: {source: any, task: embed, engines: ["sim:vllm", "sim:sglang"], standby: hot}
"""
RULES = """
- {name: batch, path: /batch, engine: "sim:sglang", priority: low}
- {name: first, path: /first, engine: "sim:vllm", only: true}
- {name: claude, header: {user-agent: "Anthropic/*"}, model: m, engine: "sim:sglang"}
- {name: fast, alias: fast, model: m, engine: m-sim-2}
"""
MESSAGE: Any = {"role": "user", "content": "Hello"}


@pytest.fixture(scope="module")
def berth() -> Iterator[Appliance]:
    variables = {"BERTH_ROUTES": RULES, "BERTH_ADMIN_KEY": "key-of-the-operator", "BERTH_REQUEST_LOG": "1"}
    with Appliance(MODELS, **variables) as appliance:
        appliance.wait(lambda: {one["status"] for one in appliance.replicas().values()} == {"ready"})
        yield appliance


def served(response: httpx.Response) -> tuple[str, str]:
    return response.headers["x-berth-replica"], response.headers.get("x-berth-rule", "")


def test_sdks_below_a_prefix_get_its_engine(berth: Appliance) -> None:
    seen: list[httpx.Response] = []
    with (
        OpenAI(base_url=f"{berth.url}/batch/v1", api_key="x") as openai,
        Anthropic(base_url=f"{berth.url}/batch", api_key="x") as anthropic,
        Anthropic(base_url=berth.url, api_key="x") as elsewhere,
        ollama.Client(host=f"{berth.url}/batch", event_hooks={"response": [seen.append]}, trust_env=False) as client,
    ):
        chats = openai.chat.completions.with_raw_response
        got: list[Any] = [
            chats.create(model="m", messages=[MESSAGE], max_tokens=3),
            openai.responses.with_raw_response.create(model="m", input="Hello"),
            openai.embeddings.with_raw_response.create(model="e", input="Hello"),
            anthropic.messages.with_raw_response.create(model="m", messages=[MESSAGE], max_tokens=3),
            elsewhere.messages.with_raw_response.create(model="claude-sonnet", messages=[MESSAGE], max_tokens=3),
            chats.create(model="m", messages=[MESSAGE], max_tokens=3, stream=True),
        ]
        assert len(list(got[-1].parse())) > 2
        client.chat(model="m", messages=[MESSAGE])
        client.embed(model="e", input="Hello")

    rules = [(one.headers["x-berth-replica"], one.headers["x-berth-rule"]) for one in (*got, *seen)]
    chat, embed = ("m-sim-2", "batch"), ("e-sim-2", "batch")
    assert rules == [chat, chat, embed, chat, ("m-sim-2", "claude"), chat, chat, embed]


def test_lists_below_a_prefix_have_the_new_alias(berth: Appliance) -> None:
    with OpenAI(base_url=f"{berth.url}/first/v1", api_key="x") as openai:
        names = [one.id for one in openai.models.list()]
    assert names == ["m", "fast", "e"]
    assert served(berth.chat("fast")) == ("m-sim-2", "fast")


def test_status_log_and_the_operator_see_the_rule(berth: Appliance) -> None:
    body = {"model": "m", "messages": [MESSAGE]}
    response = httpx.post(f"{berth.url}/first/v1/chat/completions", json=body, timeout=30, trust_env=False)
    assert served(response) == ("m-sim", "first")

    counts = {rule["name"]: rule["requests"] for rule in berth.get("/status").json()["rules"]}
    assert counts["first"] >= 1
    berth.wait(lambda: "rule=first" in berth.output())
    asked = {"path": "/first/v1/chat/completions", "model": "m"}
    headers = {"x-api-key": "key-of-the-operator"}
    explained = httpx.post(f"{berth.url}/admin/routes/explain", json=asked, headers=headers, trust_env=False).json()
    assert (explained["rule"], explained["replicas"], explained["only"]) == ("first", ["m-sim"], True)
    command = [sys.executable, "-m", "berth", "route", "--explain", "--path", asked["path"], "--model", "m", "--json"]
    done = subprocess.run(command, env=berth.environ, capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == explained


def test_percentiles_of_each_side_come_from_all_workers(berth: Appliance) -> None:
    model = berth.get("/status").json()["models"][0]
    sides = {one["name"]: one["latency"]["total_s"]["responses"] for one in model["replicas"]}
    assert model["latency"]["total_s"]["responses"] == sum(sides.values())
    assert 0 < model["latency"]["total_s"]["p50"] <= model["latency"]["total_s"]["p99"]
    assert (
        'berth_replica_percentile_seconds{engine="sim",percentile="p99",quantity="total",replica="m-sim-2"}'
        in berth.get("/metrics").text
    )


def test_a_rule_that_never_matches_starts_nothing(berth: Appliance) -> None:
    rules = "[{path: /batch, priority: low}, {path: /batch, has: tools, engine: 'sim:sglang'}]"
    environ = {**berth.environ, "BERTH_ROUTES": rules, "BERTH_RUN_DIR": f"{berth.folder}/other", "BERTH_PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "berth", "boot"], env=environ, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 78
    assert "BERTH_ROUTES: 2=" in done.stderr
    assert not Path(berth.folder, "other", "plan.json").exists()

"""A share of a model's requests is sent to another engine too. One appliance with two workers."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from berth.control.operations.shadow_commands import document, last
from berth.ipc import traffic
from berth.ipc.migration import Phase
from berth.plan import read_keys
from tests.e2e.appliance import Appliance, sim_models
from tests.e2e.test_migrate import migration, newest
from tests.fakes.plain_http import NO_AUTHORITIES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
VLLM, SGLANG = "m-sim", "m-sim-2"
DIFFERS = 0.1
BODY = {"model": "m", "max_tokens": 24, "temperature": 0, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def berth() -> Iterator[Appliance]:
    models = sim_models("m", "vllm", f"sglang --differs {DIFFERS} --seed 3")
    with Appliance(models, BERTH_WORKERS="2") as appliance:
        yield appliance.wait_ready()


def run(berth: Appliance, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "berth", *arguments]
    done = subprocess.run(command, env=berth.environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def results(berth: Appliance) -> dict[str, Any]:
    """As `berth shadow m --json` prints them."""
    (reply,) = asyncio.run(last(berth.plan(), "m"))
    found: dict[str, Any] = document(reply)
    return found


def words(berth: Appliance, replica: str) -> list[str]:
    """What the engine says itself."""
    url = berth.plan().replica(replica).url
    headers = {"authorization": f"Bearer {read_keys(berth.paths.run_dir).upstream_keys[replica]}"}
    response = httpx.post(f"{url}/v1/chat/completions", json=BODY, headers=headers, trust_env=False, timeout=60)
    text: str = response.raise_for_status().json()["choices"][0]["message"]["content"]
    return text.split()


async def ask(berth: Appliance, count: int, name: str = "") -> list[httpx.Response]:
    """Each in a conversation of its own, over ten connections."""
    async with httpx.AsyncClient(base_url=berth.url, timeout=60, trust_env=False, verify=NO_AUTHORITIES) as client:
        gate = asyncio.Semaphore(10)

        async def one(number: int) -> httpx.Response:
            headers, body = {"x-session-id": f"{name}{number}"}, BODY | {"stream": bool(number % 2)}
            async with gate:
                return await client.post("/v1/chat/completions", json=body, headers=headers)

        return await asyncio.gather(*(one(number) for number in range(count)))


def compared(berth: Appliance, count: int) -> bool:
    """So many requests have come, and none of them is on its way."""
    found = results(berth)
    return (found["requests"], found["waiting"]) == (count, 0)


def begun(berth: Appliance, *more: str) -> None:
    code, shown = run(berth, "shadow", "m", "--to", "sglang", "--for", "10m", *more)
    assert code == 0, shown
    berth.wait(lambda: all_mirror(berth))


def all_mirror(berth: Appliance) -> bool:
    """Every worker acts by a State with the shadow."""
    plan, state = berth.plan(), berth.state()
    reports = traffic.read_reports(plan.paths.traffic, len(plan.replicas), len(plan.models))
    live = traffic.workers(plan.paths.heartbeats)
    aware = traffic.all_act_by(reports, live, control_pid=state.control_pid, sequence=state.sequence)
    return aware and len(live) == 2 and any(one.ready for one in state.shadows)


def test_a_shadow_from_its_start_to_its_end(berth: Appliance) -> None:
    plain = [response.json() for response in asyncio.run(ask(berth, 1))]
    begun(berth, "--share", "50%")
    assert {name: one["status"] for name, one in berth.replicas().items()} == {VLLM: "ready", SGLANG: "starting"}

    answers = asyncio.run(ask(berth, 80))

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-berth-replica"] for answer in answers} == {VLLM}
    assert answers[0].json()["choices"] == plain[0]["choices"]
    berth.wait(lambda: compared(berth, 80))
    found = results(berth)
    assert found["requests"] == found["not_chosen"] + found["pairs"] + sum(found["skipped"].values())
    assert 15 <= found["requests"] - found["not_chosen"] <= 65
    assert (found["error"], found["structure"]) == (0, 0)
    pairs = zip(words(berth, VLLM), words(berth, SGLANG), strict=True)
    agreed = next(place for place, (one, other) in enumerate(pairs) if one != other)  # as in each of its answers
    rates = {name: (rate["same"], rate["of"]) for name, rate in found["rates"].items() if rate["of"]}
    count = found["pairs"]
    assert (found["diverged"], rates["text"], rates["finish"]) == (count, (0, count), (count, count))
    assert rates["tokens"] == (count * agreed, count * (agreed + 1))
    metrics = httpx.get(f"{berth.url}/metrics", trust_env=False).text
    assert f'berth_shadow_total{{model="m",result="diverged"}} {found["pairs"]:.1f}' in metrics

    assert json.loads(run(berth, "shadow", "m", "--json")[1])["pairs"] == found["pairs"]
    code, shown = run(berth, "shadow", "m", "--stop")
    assert code == 0, shown
    berth.wait(lambda: berth.replicas()[SGLANG]["status"] == "standby")
    berth.wait(lambda: results(berth)["state"] == "done")
    assert (results(berth)["pairs"], results(berth)["reason"][:10]) == (found["pairs"], "stopped by")


def test_a_dead_worker_and_a_wedged_candidate_cost_no_client_and_are_counted(berth: Appliance) -> None:
    begun(berth, "--share", "100%")
    url = berth.plan().replica(SGLANG).url
    httpx.post(f"{url}/sim/faults", json={"wedged": True}, trust_env=False).raise_for_status()
    answers = asyncio.run(ask(berth, 12, "wedged"))
    assert {answer.status_code for answer in answers} == {200}

    for one in berth.find("router").children():
        if "router" in one.cmdline():  # a worker
            one.kill()

    berth.wait(lambda: compared(berth, 12))
    found = results(berth)
    assert (found["not_chosen"], found["pairs"] + sum(found["skipped"].values())) == (0, 12)
    assert run(berth, "shadow", "m", "--stop")[0] == 0
    berth.wait(lambda: berth.replicas()[SGLANG]["status"] == "standby" and results(berth)["state"] == "done")


def test_a_migration_compares_answers_before_its_canary(berth: Appliance) -> None:
    code, shown = run(berth, "migrate", "m", "--to", "sglang", "--shadow", "100%", "--step-time", "600")
    assert code == 0, shown
    berth.wait(lambda: all_mirror(berth))
    answers = asyncio.run(ask(berth, 60, "migrates"))
    assert {answer.headers["x-berth-replica"] for answer in answers} == {VLLM}

    berth.wait(lambda: migration(berth).phase is Phase.CANARY)

    number = newest(berth).id
    assert "results     diverged" in run(berth, "migration", number)[1]
    assert run(berth, "migration", number, "abort")[0] == 0
    berth.wait(lambda: migration(berth).phase is Phase.ROLLED_BACK)

"""Three engines of three dialects behind one model name: when one dies, the next one answers."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from tests.e2e.appliance import Appliance, end, sim_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SLOW = "--ttft 20ms --itl 20ms"


@pytest.fixture
def berth() -> Iterator[Appliance]:
    models = sim_models("m", f"vllm {SLOW}", f"sglang {SLOW}", f"trtllm {SLOW}", standby="hot")
    with Appliance(models, BERTH_AFFINITY="0") as appliance:  # so that the first of them is asked first
        yield appliance.wait(lambda: {replica["status"] for replica in appliance.replicas().values()} == {"ready"})


def server(appliance: Appliance, dialect: str) -> str:
    (name,) = [name for name, replica in appliance.replicas().items() if replica["dialect"] == dialect]
    return name


def test_next_engine_serves_after_a_kill(berth: Appliance) -> None:
    first, second = server(berth, "vllm"), server(berth, "sglang")
    assert berth.chat("m").headers["x-berth-replica"] == first
    whole = berth.chat("m").json()["choices"][0]["message"]["content"]

    cut = threading.Thread(target=lambda: berth.chat("m", max_tokens=20))  # it serves while it dies
    process = berth.find("sim", "--dialect", "vllm")
    cut.start()
    end(process)
    cut.join()

    answer = berth.chat("m")  # it is started again after a second
    assert answer.status_code == 200
    assert answer.headers["x-berth-replica"] == second
    assert answer.json()["choices"][0]["message"]["content"] == whole

    berth.wait(lambda: berth.replicas()[first]["status"] == "ready")
    berth.wait(lambda: berth.chat("m").headers["x-berth-replica"] == first)
    assert berth.replicas()[first]["restarts"] == 1


def test_next_engine_serves_an_unanswered_request(berth: Appliance) -> None:
    first, second = server(berth, "vllm"), server(berth, "sglang")
    process = berth.find("sim", "--dialect", "vllm")
    process.send_signal(signal.SIGSTOP)  # it takes the request and says nothing
    answers = []
    request = threading.Thread(target=lambda: answers.append(berth.chat("m")))
    request.start()
    end(process)
    request.join()
    assert answers[0].status_code == 200
    assert answers[0].headers["x-berth-replica"] == second
    assert first != second


def test_every_dialect_responds_alike(berth: Appliance) -> None:
    seen, dead = set(), list[str]()
    for dialect in ("vllm", "sglang", "trtllm"):
        for other in dead:  # it may be back
            with suppress(LookupError):
                end(berth.find("sim", "--dialect", other))
        answer = berth.chat("m", temperature=0)
        seen.add(answer.headers["x-berth-replica"])
        assert answer.headers["x-berth-replica"] == server(berth, dialect)
        assert answer.json()["model"] == "m"
        assert answer.json()["choices"][0]["finish_reason"] == "stop"
        end(berth.find("sim", "--dialect", dialect))
        dead.append(dialect)
    assert len(seen) == 3


def test_without_engines_the_client_gets_retry_after(berth: Appliance) -> None:
    processes = [berth.find("sim", "--dialect", dialect) for dialect in ("vllm", "sglang", "trtllm")]
    for process in processes:  # at once, before the first is back
        process.kill()
    answer = berth.chat("m")
    while answer.status_code == 200:  # one was faster to come back than we to ask
        answer = berth.chat("m")
    assert answer.status_code in {502, 503}
    assert answer.json()["error"]["message"]
    berth.wait(lambda: berth.chat("m").status_code == 200)


def test_stream_survives_the_death_of_every_engine(berth: Appliance) -> None:
    """One after another, each while it serves; the first ones are back by the time they are needed again."""
    whole = berth.chat("m").json()["choices"][0]["message"]["content"]
    dialects = {name: replica["dialect"] for name, replica in berth.replicas().items()}
    processes = {name: berth.find("sim", "--dialect", dialect) for name, dialect in dialects.items()}
    wanted = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    text, heard, killed = "", 0, list[str]()
    with httpx.stream("POST", f"{berth.url}/v1/chat/completions", json=wanted, timeout=30) as answer:
        serving = answer.headers["x-berth-replica"]
        for line in answer.iter_lines():
            if line.startswith(": berth moved"):
                serving, heard = line.split(" -> ")[1].split()[0], 0
            if line.startswith("data: {"):
                choice = json.loads(line[6:])["choices"][0]
                text += choice["delta"].get("content") or ""
                heard += 1
            if heard == 6 and len(killed) < 4:  # what it had sent before comes still
                process = processes.pop(serving, None) or berth.find("sim", "--dialect", dialects[serving])
                process.kill()
                killed.append(serving)
                heard += 1

    assert text == whole
    assert len(killed) == 4
    assert line == "" or line.startswith("data: [DONE]")

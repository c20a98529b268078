"""Replicas of one model share its requests, and are loaded and unloaded while they serve."""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.e2e.appliance import Appliance, end, joined, sim_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
KEY = "key-of-the-operator"


@pytest.fixture(scope="module")
def berth() -> Iterator[Appliance]:
    models = sim_models("m", "vllm --itl 10ms", replicas="{min: 2, max: 3}")
    with Appliance(models, BERTH_ADMIN_KEY=KEY, BERTH_AFFINITY="off") as appliance:
        yield appliance.wait_ready()


def run(berth: Appliance, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "berth", *arguments]
    done = subprocess.run(command, env=berth.environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def statuses(berth: Appliance) -> list[str]:
    return [str(one["status"]) for one in berth.replicas().values()]


def served_by(berth: Appliance, count: int) -> Counter[str]:
    """How many of so many requests at once each replica served."""
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(lambda _: berth.chat("m", max_tokens=20), range(count)))
    assert {answer.status_code for answer in answers} == {200}
    return Counter(answer.headers["x-berth-replica"] for answer in answers)


def test_scales_up_and_down_without_losing_a_request(berth: Appliance) -> None:
    berth.wait(lambda: statuses(berth) == ["ready", "ready", "unloaded"])
    assert sorted(served_by(berth, 8).values()) == [4, 4]
    assert run(berth, "status")[0] == 0

    assert run(berth, "scale", "m", "3", "--wait", "60")[0] == 0
    assert sorted(served_by(berth, 9)) == ["m-sim", "m-sim-2", "m-sim-3"]

    codes: list[int] = []
    ends = threading.Event()

    def client() -> None:
        while not ends.is_set():
            codes.append(berth.chat("m", max_tokens=20).status_code)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    berth.wait(lambda: len(codes) > 8)
    code, shown = run(berth, "scale", "m", "1", "--wait", "60")
    ends.set()
    joined(threads, 30)
    assert code == 0, shown
    berth.wait(lambda: statuses(berth) == ["ready", "unloaded", "unloaded"])
    assert set(codes) == {200}
    assert berth.get("/ready?model=m").status_code == 200


def test_scale_outlives_control(berth: Appliance) -> None:
    before = berth.state().control_pid
    end(psutil.Process(before))
    berth.wait(lambda: berth.state().control_pid != before)

    assert run(berth, "load", "m", "--wait", "30")[0] == 0

    assert statuses(berth) == ["ready", "unloaded", "unloaded"]


def test_scales_over_the_network(berth: Appliance) -> None:
    def scale(count: int) -> tuple[int, str]:
        body = {"action": "scale", "model": "m", "count": count}
        headers = {"authorization": f"Bearer {KEY}"}
        answer = berth.http.post("/admin/operations?wait=60", json=body, headers=headers, timeout=90)
        return answer.status_code, json.dumps(answer.json())

    assert scale(2)[0] == 200
    berth.wait(lambda: statuses(berth) == ["ready", "ready", "unloaded"])  # the router reads the State at its next poll
    code, message = scale(4)
    assert (code, "1 to 3 replicas, not 4" in message) == (400, True)

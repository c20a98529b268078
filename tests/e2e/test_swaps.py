"""More models than fit on a GPU: the whole appliance with a fake driver, and simulated engines in the place of vLLM."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos import preemptions, swap_soak
from tests.e2e.appliance import Appliance, end, joined
from tests.e2e.test_operations import run
from tests.fakes.boot import QWEN_8B
from tests.fakes.nvml.build import environment
from tests.fakes.sim_as_vllm import install_simulated_vllm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the fake NVML library is made with cc"),
]
NAMES = ("red", "green", "blue")
CLIENTS = 6
ROUNDS = 3
ARGUMENTS = "--load-time 1s --fault gpu-release=1s"
NOT_FREE = "Free memory on device"  # what vLLM says when it is started on memory that others hold


@pytest.fixture
def berth(tmp_path: Path) -> Iterator[Appliance]:
    """One GPU that holds one of three models."""
    models: dict[str, dict[str, Any]] = {"red": {"kv_cache": "1GiB"}, "green": {}, "blue": {}}
    with appliance_on_one_gpu(tmp_path, models, weights_gib=15, gpu_gib=24) as appliance:
        yield appliance
        assert NOT_FREE not in appliance.output()


@contextmanager
def appliance_on_one_gpu(
    folder: Path, models: dict[str, dict[str, Any]], *, weights_gib: int, gpu_gib: int
) -> Iterator[Appliance]:
    source = folder / "model"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(QWEN_8B))
    with (source / "model.safetensors").open("wb") as file:
        file.truncate(weights_gib * 2**30)
    fields: dict[str, Any] = {"source": str(source), "engines": ["vllm"], "load": "on_request"}
    fields |= {"min_residency": "1s", "max_wait": "1s"}
    engine = {"vllm": {"env": {"FAKE_VLLM_ARGUMENTS": ARGUMENTS}}}
    install_simulated_vllm(folder / "engines")
    held = folder / "held"
    held.mkdir()
    driver = environment(folder, count=1, total_mib=gpu_gib * 1024, held_in=held)
    variables = {**driver, "CUDA_VISIBLE_DEVICES": "0", "BERTH_ENGINE_HOME": str(folder / "engines")}
    variables |= {"BERTH_WORKERS": "2", "BERTH_QUEUE_TIMEOUT": "120s"}
    text = json.dumps({name: fields | engine | own for name, own in models.items()})
    with Appliance(text, **variables) as appliance:
        yield appliance.wait(lambda: set(statuses(appliance).values()) == {"unloaded"})


def statuses(berth: Appliance) -> dict[str, str]:
    return {name.removesuffix("-vllm"): str(one["status"]) for name, one in berth.replicas().items()}


def loaded(berth: Appliance) -> set[str]:
    return {name for name, status in statuses(berth).items() if status != "unloaded"}


class Client(threading.Thread):
    """Requests models in turn: streams and whole answers, of OpenAI's and Anthropic's APIs."""

    def __init__(self, berth: Appliance, number: int, rounds: int = ROUNDS) -> None:
        super().__init__()
        self._berth = berth
        self._number = number
        self._rounds = rounds
        self.failures: list[str] = []
        self.answers = 0

    def run(self) -> None:
        for one in range(self._rounds):
            model, stream = NAMES[(self._number + one) % len(NAMES)], bool((self._number + one) % 2)
            ask = self._anthropic if self._number % 3 == 2 else self._openai
            try:
                ask(model, stream=stream)
                self.answers += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, the test reports it
                self.failures.append(f"{model} stream={stream}: {error!r}")

    def _openai(self, model: str, *, stream: bool) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": stream, "max_tokens": 20}
        self._check(model, "/v1/chat/completions", body, '"finish_reason":')

    def _anthropic(self, model: str, *, stream: bool) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": stream, "max_tokens": 20}
        self._check(model, "/v1/messages", body, '"stop_reason":')

    def _check(self, model: str, path: str, body: dict[str, Any], ending: str) -> None:
        answer = self._berth.http.post(path, json=body, timeout=150)
        assert answer.status_code == 200, answer.text
        assert ending in answer.text, answer.text
        assert '"error"' not in answer.text, answer.text
        assert f'"model":"{model}"' in answer.text.replace('": "', '":"'), answer.text
        others = (name for name in NAMES if name != model)
        assert not any(f'"{other}"' in answer.text for other in others), answer.text


def finished(clients: list[Client]) -> None:
    joined(clients, 200)
    assert [failure for client in clients for failure in client.failures] == []


def test_swaps_lose_no_request_and_mix_up_none(berth: Appliance) -> None:
    assert len(berth.plan().models[0].room) == 1
    command = [sys.executable, "-m", "berth", "plan"]  # a process of its own, which loads the fake NVML library
    plan = subprocess.run(command, env=berth.environ, capture_output=True, text=True, check=True).stdout
    assert "cannot be loaded at the same time" in plan
    clients = [Client(berth, number) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    seen = set()
    while any(client.is_alive() for client in clients):
        seen.add(frozenset((name, status) for name, status in statuses(berth).items() if status != "unloaded"))
        time.sleep(0.1)
    finished(clients)

    assert sum(client.answers for client in clients) == CLIENTS * ROUNDS
    assert [sorted(one) for one in seen if len(one) > 1] == []
    assert {name for one in seen for name, _ in one} == set(NAMES)
    assert "a swap to" in berth.output()
    assert 'change="unload",model="red",why="swap"' in berth.get("/metrics").text


def test_swap_survives_control_and_the_engine(berth: Appliance) -> None:
    assert berth.chat("red", max_tokens=5).status_code == 200
    waiting = [Client(berth, 1, rounds=1), Client(berth, 4, rounds=1)]
    for client in waiting:
        client.start()
    berth.wait(lambda: statuses(berth)["red"] != "ready" or any(client.failures for client in waiting))
    assert [client.failures for client in waiting] == [[], []]
    end(psutil.Process(berth.state().control_pid))
    berth.wait(lambda: berth.find("sim", "green").is_running())
    end(berth.find("sim", "green"))
    finished(waiting)
    berth.wait(lambda: loaded(berth) == {"green"})


def test_pinned_model_stays_and_memory_of_others_is_waited_for(berth: Appliance, tmp_path: Path) -> None:
    assert run(berth, "load", "red", "--wait", "60")[0] == 0
    assert run(berth, "pin", "red")[0] == 0
    code, text = run(berth, "load", "blue")
    assert (code, "no_room" in text, "held by red, pinned" in text) == (4, True, True)
    berth.wait(lambda: berth.chat("blue").json()["error"]["code"] == "no_room")
    assert loaded(berth) == {"red"}
    (status,) = (one for one in berth.get("/status").json()["models"] if one["name"] == "red")
    assert (status["pin"], status["load"]) == (True, "on_request")

    stranger = tmp_path / "held" / "stranger"
    stranger.write_text("0 0 4096 0 0\n")  # so much that green does not fit next to it, even without red
    berth.wait(lambda: berth.state().gpus[0].memory_used_bytes > 21 * 2**30)
    assert run(berth, "unpin", "red")[0] == 0
    waiting = Client(berth, 1, rounds=1)
    waiting.start()
    berth.wait(lambda: "load green  running" in run(berth, "operations")[1] or bool(waiting.failures))
    assert waiting.failures == []
    since = time.monotonic()
    berth.wait(lambda: time.monotonic() - since > 6)  # long after red would have left otherwise
    assert statuses(berth) == {"red": "ready", "green": "unloaded", "blue": "unloaded"}
    stranger.unlink()
    finished([waiting])
    assert loaded(berth) == {"green"}


def test_preempted_streams_have_the_text_of_uninterrupted_ones(tmp_path: Path) -> None:
    """Of all client APIs, with control killed meanwhile. The long form: `make preemptions`."""
    seen = preemptions.Seen()
    with swap_soak.appliance(tmp_path, engine=preemptions.ENGINE, fields=preemptions.FIELDS) as berth:
        preemptions.play(berth, tmp_path / "more", preemptions.AT_ONCE, seen, times=1)
        events = run(berth, "events")[1]
    assert seen.wrong == []
    assert seen.preempted["continued"] >= preemptions.AT_ONCE
    assert set(+seen.preempted) == {"continued"}
    assert "drain timeout over" in events
    assert NOT_FREE not in berth.output()


def test_models_take_turns_by_sleep_and_one_that_sleeps_badly_is_unloaded(tmp_path: Path) -> None:
    bad = {"vllm": {"env": {"FAKE_VLLM_ARGUMENTS": f"{ARGUMENTS} --fault gpu-residue=4000"}}}
    models: dict[str, dict[str, Any]] = {"red": {"sleep": True}, "green": {"sleep": True, **bad}}
    with appliance_on_one_gpu(tmp_path, models, weights_gib=6, gpu_gib=16) as berth:
        for name in ("red", "green", "red"):
            body = {"model": name, "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
            answer = berth.http.post("/v1/chat/completions", json=body, timeout=150)
            assert (answer.status_code, answer.json()["model"]) == (200, name)
            assert answer.headers["x-berth-loaded"] == name
            assert int(answer.headers["x-berth-queue-ms"]) >= int(answer.headers["x-berth-load-ms"]) > 0
            if name == "green":
                berth.wait(lambda: berth.replicas()["red-vllm"]["status"] == "asleep")
                slept, ram = berth.replicas()["red-vllm"], berth.get("/status").json()["sleep_ram"]
                with_weights = slept["sleep_level"] == 1  # as there is RAM on this machine
                assert ("with its weights in RAM" in slept["reason"]) is with_weights
                assert (ram["held_bytes"] > 6 * 2**30) is (slept["sleep_ram_bytes"] > 6 * 2**30) is with_weights
                assert ram["budget_bytes"] >= ram["held_bytes"]
        berth.wait(lambda: statuses(berth) == {"red": "ready", "green": "unloaded"})
        berth.wait(lambda: "red-vllm: ready -> asleep" in run(berth, "load", "green", "--dry-run")[1])
        found = berth.replicas()
        assert found["red-vllm"]["start"]["how"] == "wake"
        assert found["red-vllm"]["kept_asleep"] == {"0": 1024 * 2**20}
        assert "more than 2.0 GiB" in found["green-vllm"]["cannot_sleep"]
        text = run(berth, "operations")[1]
        assert "unloaded instead: green-vllm could not be put to sleep: asleep it keeps 3.9 GiB of GPU 0" in text
        assert 'change="sleep",model="red",why="swap"' in berth.get("/metrics").text
        assert NOT_FREE not in berth.output()

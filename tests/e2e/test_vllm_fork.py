"""The real vLLM on the CPU, loaded on request: forked from a process that has imported it."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from berth.engines import vllm as engine
from berth.processes import leftovers
from tests.e2e.appliance import Appliance
from tests.e2e.test_operations import run

pytestmark = [
    *(pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(600)),
    pytest.mark.skipif(
        "FORKS" not in os.environ,
        reason="takes minutes: `make e2e-forks`; tests/boot/preload has a small engine, and vLLM's swaps are forks",
    ),
]

NAME = "red-vllm"
PATIENCE_S = 300.0
LEAST_GAIN = 2.0  # how many times less CPU time a forked start takes; 5 to 8 were measured
# What is read while all of it is imported, and kept as it was then, if anything is.
READ = """
import importlib, json, os, sys
seen, kind = set(), type(os.environ)
get = kind.__getitem__
kind.__getitem__ = lambda self, name: (seen.add(name), get(self, name))[1]
sys.argv = ["vllm"]
for name in json.loads(os.environ["MODULES"]):
    importlib.import_module(name)
print(json.dumps(sorted(os.fsdecode(name) for name in seen)))
"""


@pytest.fixture(scope="module")
def berth(vllm: Path, tiny_model: Path) -> Iterator[Appliance]:
    fields = {"engines": ["vllm"], "load": "on_request", "context": 1024, "kv_cache": "64MiB"}
    models = {"red": {"source": str(tiny_model), **fields}}
    with Appliance(json.dumps(models), BERTH_ENGINE_HOME=str(vllm), BERTH_QUEUE_TIMEOUT="280s") as appliance:
        appliance.wait(lambda: preload(appliance)["status"] == "ready", PATIENCE_S)
        yield appliance


def preload(berth: Appliance) -> dict[str, Any]:
    found: dict[str, Any] = berth.get("/status").json()["preloads"][0]
    return found


def load(berth: Appliance) -> tuple[dict[str, Any], float]:
    """How the model started, for a request; and the CPU time that its processes took until it was answered."""
    body = {"model": "red", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, "temperature": 0}
    answer = berth.http.post("/v1/chat/completions", json=body, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    spent_s = 0.0
    for pid in leftovers(berth.paths, NAME):
        times = psutil.Process(pid).cpu_times()
        spent_s += times.user + times.system + times.children_user + times.children_system
    return dict(berth.replicas()[NAME]["start"]), spent_s


def unload(berth: Appliance) -> None:
    assert run(berth, "unload", "red", "--wait", "120")[0] == 0
    berth.wait(lambda: berth.replicas()[NAME]["status"] == "unloaded", PATIENCE_S)


def test_a_fork_starts_for_a_fraction_of_the_cpu_time_and_says_so(berth: Appliance) -> None:
    load(berth)
    unload(berth)
    forked, forked_s = load(berth)
    assert forked["how"] == "fork"
    assert {"fork", "load"} < set(forked["phases"])
    said = preload(berth)
    assert said["forks"] == 2
    assert said["memory_bytes"] > 100 << 20
    unload(berth)
    preloader = next(
        one for one in psutil.process_iter() if str(berth.paths.preload_socket("vllm.preload")) in str(one.cmdline())
    )
    preloader.suspend()  # it answers nothing: the engine starts by itself
    try:
        plain, plain_s = load(berth)
    finally:
        preloader.resume()
    assert plain["how"] == "load"
    assert "import" in plain["phases"]
    assert "started without the preloaded vllm: timed out" in berth.paths.replica_log(NAME).read_text()
    assert forked_s * LEAST_GAIN < plain_s, f"forked {forked_s:.1f} s, plain {plain_s:.1f} s"
    unload(berth)


@pytest.mark.parametrize("victim", ["leader", "server", "second process"])
def test_nothing_is_left_of_a_fork_that_is_killed(berth: Appliance, victim: str) -> None:
    load(berth)
    pids = leftovers(berth.paths, NAME)
    names = {pid: psutil.Process(pid).cmdline() for pid in pids}
    leader = next(pid for pid, words in names.items() if "exec" in words)
    server = int(re.findall(r"as process (\d+)", berth.paths.replica_log(NAME).read_text())[-1])
    second = next(pid for pid in pids if psutil.Process(pid).ppid() == server)
    before = berth.replicas()[NAME]["restarts"]
    os.kill({"leader": leader, "server": server, "second process": second}[victim], signal.SIGKILL)
    berth.wait(lambda: not {*pids} & {*leftovers(berth.paths, NAME)}, 60)
    berth.wait(lambda: berth.replicas()[NAME]["restarts"] > before, 120)  # until then the router takes it for ready
    load(berth)
    unload(berth)


def test_no_variable_of_one_model_is_read_while_vllm_is_imported(vllm: Path, tmp_path: Path) -> None:
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "HOME": str(tmp_path)}
    environ["MODULES"] = json.dumps((*engine.PRELOADED_MODULES, *engine.PRELOADED_FOR_CPU))
    command = [str(vllm / "vllm/bin/python"), "-c", READ]
    read = json.loads(subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
    assert "HF_HOME" in read
    # The folder of torch.compile is looked up at each use: torch makes it when it is imported, and keeps nothing.
    assert {*engine.DIFFERING} & {*read} <= {"TORCHINDUCTOR_CACHE_DIR"}

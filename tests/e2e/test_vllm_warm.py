"""`standby: warm` with the real vLLM."""

import json
from pathlib import Path

import pytest

from berth.state import ReplicaStatus
from tests.e2e.appliance import Appliance
from tests.e2e.test_warm import is_as, kill, pid, served_by

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(300)]


def test_real_vllm_sleeps_and_wakes(forked_vllm: Path, tiny_model: Path) -> None:
    model = {"source": str(tiny_model), "engines": ["vllm", "vllm"], "standby": "warm", "context": 1024}
    with Appliance(json.dumps({"m": model}), BERTH_ENGINE_HOME=str(forked_vllm)) as berth:
        berth.wait(is_as("ready", "asleep", berth), 120)
        before = served_by(berth), berth.chat("m").json()["choices"]
        sleeper = pid(berth, "m-vllm-2")
        kill(berth, "m-vllm")
        berth.wait(lambda: served_by(berth) == "m-vllm-2")
        assert before == ("m-vllm", berth.chat("m").json()["choices"])
        assert pid(berth, "m-vllm-2") == sleeper
        (woken,) = [one for one in berth.state().replicas if one.name == "m-vllm-2"]
        assert (woken.status, woken.restarts) == (ReplicaStatus.READY, 0)

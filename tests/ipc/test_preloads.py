"""What /status says of the processes that engines are forked from."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from berth.ipc.preloads import preloads
from berth.plan import EngineName, Plan, Preload
from tests.fakes.plans import make_plan

PRELOAD = Preload(name="vllm.preload", engine=EngineName.VLLM, like="a", replicas=("a",), modules=(), differing=())
SAID = {"pid": os.getpid(), "ready": True, "problem": "", "seconds": 11.5, "forks": 2}


def plan_of(folder: Path) -> Plan:
    return replace(make_plan(str(folder)), preloads=(PRELOAD,))


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "ready"),
        ({"ready": False}, "starting"),
        ({"problem": "it has 2 threads"}, "stopped"),
        ({"pid": 2**22 + 1}, "stopped"),
    ],
)
def test_says_how_it_is_and_what_it_takes(tmp_path: Path, changes: dict[str, Any], status: str) -> None:
    plan = plan_of(tmp_path)
    plan.paths.preload_state("vllm.preload").write_text(json.dumps(SAID | changes))
    (found,) = preloads(plan)
    assert (found["name"], found["engine"], found["status"]) == ("vllm.preload", "vllm", status)
    assert (found["reason"], found["forks"], found["seconds"]) == (changes.get("problem", ""), 2, 11.5)
    assert (found["memory_bytes"] > 2**20) is (status != "stopped")


@pytest.mark.parametrize("text", [None, "{", "[]", '{"pid": 1}'])
def test_what_has_not_started_says_nothing(tmp_path: Path, text: str | None) -> None:
    plan = plan_of(tmp_path)
    if text is not None:
        plan.paths.preload_state("vllm.preload").write_text(text)
    (found,) = preloads(plan)
    assert (found["status"], found["memory_bytes"]) == ("unloaded", 0)

"""The planned KV cache against what the real vLLM makes of it, for models whose layers cache in different ways."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.appliance import ROOT, Appliance

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(300)]

LOGGED = re.compile(r"KV cache size: ([0-9,]+) tokens")
KINDS = ("sliding", "recurrent", "gated-delta", "experts")
PROCESSOR = Path("/proc/cpuinfo").read_text().split()
# Settings that change what the cache holds, or must not.
SETTINGS: dict[str, dict[str, object]] = {
    **({"fp8": {"kv_dtype": "fp8"}} if "avx512f" in PROCESSOR else {}),  # of vLLM on the CPU
    "guessing": {"speculation": "ngram", "prefix_cache": False, "text_only": True},
}


@pytest.fixture(scope="module")
def models(vllm: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layer-kinds")
    python, script = vllm / "vllm/bin/python", ROOT / "tests/fakes/layer_kinds.py"
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([python, script, tiny_model, folder], check=True, timeout=120, env=environ, capture_output=True)
    return {kind: folder / kind for kind in KINDS}


def test_vllm_has_the_planned_tokens(forked_vllm: Path, models: dict[str, Path]) -> None:
    specs = {
        "tiny": {"source": str(ROOT / "models/tiny"), "engines": ["vllm"], "context": 2048},
        **{kind: {"source": str(source), "engines": ["vllm"]} for kind, source in models.items()},
        **{
            name: {"source": str(ROOT / "models/tiny"), "engines": ["vllm"], "context": 2048, **fields}
            for name, fields in SETTINGS.items()
        },
        "one-state": {"source": str(models["recurrent"]), "engines": ["vllm"], "prefix_cache": False},
    }
    with Appliance(json.dumps(specs), BERTH_ENGINE_HOME=str(forked_vllm)) as berth:
        berth.wait_ready(600)  # one after the other
        planned = {one.model: one.memory.kv_tokens for one in berth.plan().replicas if one.memory}
        logged = {}
        for replica in berth.plan().replicas:
            found = LOGGED.search((berth.paths.logs / f"{replica.name}.log").read_text())
            assert found, f"{replica.name} logged no size of its KV cache"
            logged[replica.model] = int(found[1].replace(",", ""))

    assert logged.keys() == planned.keys() == specs.keys()
    assert logged["guessing"] == logged["tiny"]
    shares = {name: planned[name] / logged[name] for name in planned}
    assert shares == pytest.approx(dict.fromkeys(shares, 1), rel=0.02)

"""A host that does not exist, and the real `berth` run in it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from berth.plan import Plan
from tests.fakes.engine_home import install
from tests.fakes.nvml.build import environment

QWEN_8B = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "torch_dtype": "bfloat16",
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "vocab_size": 151936,
}
GIB = 2**30


class Machine:
    """A folder with engines, a model and GPUs that do not exist, and `berth` run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"} | {
            name: value for name, value in os.environ.items() if name.startswith("COVERAGE")
        }
        self.environ |= {
            "BERTH_ENGINE_HOME": str(folder / "engines"),
            "BERTH_RUN_DIR": str(folder / "run"),
            "BERTH_DATA": str(folder / "data"),
            "BERTH_WORKERS": "1",
        }
        install(folder / "engines", "vllm", "vllm", "0.33.0")
        install(folder / "engines", "sglang", "sglang", "0.5.23")

    def model(self, weights_gib: float) -> str:
        """A local model with the numbers of Qwen3-8B and weights of that size, in a sparse file."""
        return self.checkpoint(f"model-{weights_gib:g}", QWEN_8B, int(weights_gib * GIB))

    def checkpoint(self, name: str, config: Mapping[str, Any], weights_bytes: int) -> str:
        """A local model with this config.json and weights of that size, in a sparse file."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        with (folder / "model.safetensors").open("wb") as file:
            file.truncate(weights_bytes)
        return str(folder)

    def gpus(self, count: int, total_gib: int = 80) -> None:
        self.environ |= environment(self.folder, count=count, total_mib=total_gib * 1024)

    def cards(self, count: int, *, name: str, total_mib: int, capability: str) -> None:
        self.environ |= environment(
            self.folder, count=count, total_mib=total_mib, used_mib=0, name=name, capability=capability
        )

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "berth", *arguments],
            env=self.environ | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=15,
        )

    def plan(self, models: str, **variables: str) -> Plan:
        done = self.run("plan", "--json", BERTH_MODELS=models, **variables)
        assert done.returncode == 0, done.stderr
        return Plan.from_json(done.stdout.encode())

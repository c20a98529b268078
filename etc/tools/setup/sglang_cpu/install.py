"""Installs the real SGLang without a GPU, for tests: `python -m etc.tools.setup.sglang_cpu.install [FOLDER]`.

2.7 GB, a few minutes. Its wheels are made for GPUs: torch comes in its build for the CPU, and the kernels are replaced
by what stands in `site`, where nothing can be called. Its version then ends in "+cpu", which tells Berth.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from etc.tools.setup.engines import ROOT, STAMP, TORCH_SOURCES, UV, need_disk
from etc.tools.setup.progress import SetupError, say

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
SITE = HERE / "site"
NEEDED_BYTES: Final = 4 * 2**30


def install(target: Path) -> None:
    """Leaves a whole environment there: at once when it is there already."""
    if is_installed(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    need_disk(target.parent, NEEDED_BYTES)
    shutil.rmtree(target, ignore_errors=True)
    say(f"SGLang for the CPU: installing into {target} (2.7 GB) ...")
    run([str(UV), "venv", "--quiet", "--seed", "--python", sys.executable, str(target)])
    install_torch(target)
    python = str(target / "bin/python")
    options = ["--no-deps", "--compile-bytecode", "--requirement", str(REQUIREMENTS)]
    run([str(UV), "pip", "install", "--quiet", "--python", python, *options])
    (packages,) = target.glob("lib/python3*/site-packages")
    replace_kernels(packages)
    call_it_cpu(packages)
    (target / STAMP).write_text(wanted(target))
    say("SGLang for the CPU: installed.")


def is_installed(target: Path) -> bool:
    try:
        return (target / STAMP).read_text() == wanted(target)
    except OSError:
        return False


def wanted(target: Path) -> str:
    """An environment does not survive a move."""
    ours = [REQUIREMENTS, Path(__file__), *sorted(SITE.glob("*.py"))]
    return "\n".join((str(target), *(file.read_text() for file in ours)))


def install_torch(target: Path) -> None:
    """With pip, which knows where this machine has it. SetupError where no source has it."""
    pip = [str(target / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
    for source in TORCH_SOURCES:
        if subprocess.run([*pip, *source.arguments], check=False).returncode == 0:
            return
    raise SetupError("no torch for the CPU was found; pip's reasons stand above")


def replace_kernels(packages: Path) -> None:
    for file in SITE.glob("*.py"):
        shutil.copyfile(file, packages / file.name)


def call_it_cpu(packages: Path) -> None:
    (metadata,) = packages.glob("sglang-*.dist-info/METADATA")
    before, name, after = metadata.read_text().partition("\nVersion: ")
    version, end, rest = after.partition("\n")
    metadata.unlink()  # it may be one file with that of uv's cache
    metadata.write_text(f"{before}{name}{version}+cpu{end}{rest}")


def run(command: Sequence[str]) -> None:
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        raise SetupError(f"exit code {code} from: {' '.join(command)}")


def main() -> int:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".engines/sglang-cpu"
    try:
        install(target.absolute())
    except SetupError as error:
        print(f"\nsetup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

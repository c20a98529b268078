"""A throw-away environment: an engine's package and what importing its parser needs, with torch's CPU build.

The versions are the lock's where it locks this version of the engine, so that two extractions give the same table.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from etc.tools.contract.locks import LOCKS, ROOT, lines, normal, version_of
from etc.tools.contract.targets import Target
from etc.tools.setup.engines import TORCH
from etc.tools.setup.progress import SetupError, say

UV = ROOT / "etc/tools/setup/uv.sh"
FOLDER = ROOT / ".engines/contract"
DISK_BYTES = 5 * 2**30
TORCH_INDEXES = ((), ("--index-url", "https://download.pytorch.org/whl/cpu"))  # first what pip is configured for

Locked = Sequence[tuple[str, str]]  # distribution, and its line in the lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which version of which engine, and torch's version, which need not be the engine's own."""

    target: Target
    version: str
    torch: str = TORCH

    @property
    def title(self) -> str:
        return f"{self.target.distribution} {self.version}"

    @property
    def folder(self) -> Path:
        return FOLDER / f"{self.target.name}-{self.version}"

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    @property
    def downloads(self) -> Path:
        """What is only read."""
        return self.folder / "wheels"


@contextmanager
def environment(wanted: Wanted, *, keep: bool) -> Iterator[None]:
    """Made anew, and gone afterwards unless it is kept. SetupError where it cannot be made."""
    need_disk(wanted.folder.parent)
    try:
        make(wanted)
        yield
    finally:
        if not keep:
            shutil.rmtree(wanted.folder, ignore_errors=True)


def need_disk(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < DISK_BYTES:
        raise SetupError(
            f"{folder} has {free / 1e9:.1f} GB free, an extraction takes up to {DISK_BYTES / 1e9:.1f} GB. Make room."
        )


def make(wanted: Wanted) -> None:
    locked = locked_lines(wanted)
    run([str(UV), "venv", "--quiet", "--seed", "--clear", "--python", sys.executable, str(wanted.folder)])
    wanted.downloads.mkdir(exist_ok=True)
    if wanted.target.module:
        say(f"{wanted.title}: installing it with torch {wanted.torch} for the CPU into {wanted.folder} (2 to 3 GB) ...")
        install_torch(wanted)
        run(install_command(wanted, locked))
    if wanted.target.read:
        say(f"{wanted.title}: fetching what is only read for its variables: {', '.join(wanted.target.read)} ...")
        run([*pip(wanted, "download"), "--no-deps", "--dest", str(wanted.downloads), *to_read(wanted, locked)])


def locked_lines(wanted: Wanted) -> Locked:
    """Empty where the engine's lock is of another version."""
    locked = tuple(lines(LOCKS / f"{wanted.target.name}.txt"))
    return locked if version_of(wanted.target) == wanted.version else ()


def install_torch(wanted: Wanted) -> None:
    said = []
    for index in TORCH_INDEXES:
        command = [*pip(wanted, "install"), "--no-deps", *index, f"torch=={wanted.torch}+cpu"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        said.append(done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"])
    raise SetupError(
        f"no CPU build of torch {wanted.torch}: {'; '.join(line for lines in said for line in lines)}. Name a version "
        "that there is with TORCH=..., or let pip find it: PIP_FIND_LINKS=/folder/with/its/wheel"
    )


def install_command(wanted: Wanted, locked: Locked) -> list[str]:
    """Certifi may be of any version: an engine can ask for a newer one than an index has, and its parser needs none."""
    without = {normal(name) for name in wanted.target.without}
    overrides = [f"torch=={wanted.torch}+cpu", "certifi"]
    fixed = [line for name, line in locked if name not in {*without, "torch", "certifi"}]
    files = {"excludes": sorted(without), "overrides": overrides, "constraints": fixed}
    for name, wants in files.items():
        (wanted.folder / f"{name}.txt").write_text("\n".join(wants) + "\n", encoding="utf-8")
    options = [word for name in files for word in (f"--{name}", str(wanted.folder / f"{name}.txt"))]
    requirement = f"{wanted.target.distribution}=={wanted.version}"
    return [str(UV), "pip", "install", "--quiet", "--no-cache", "--python", str(wanted.python), *options, requirement]


def to_read(wanted: Wanted, locked: Locked) -> list[str]:
    """With the lock's versions where it has them."""
    return [dict(locked).get(normal(name), name) for name in wanted.target.read]


def pip(wanted: Wanted, command: str) -> list[str]:
    """Pip rather than uv where what its configuration says must count: find-links and further indexes."""
    return [str(wanted.python), "-m", "pip", "--disable-pip-version-check", command, "-qq"]


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        raise SetupError(f"exit code {done.returncode} from: {' '.join(command)}\nIts own words stand above.")


def packages(wanted: Wanted) -> Path:
    """The environment's site-packages."""
    return next(wanted.folder.glob("lib/python3*/site-packages"))

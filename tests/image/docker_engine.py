"""The Docker Engine for the tests: the one that answers, or a private one (engine/engine.sh)."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etc.tools.setup.progress import SetupError, say
from tests.e2e.appliance import ROOT

SCRIPT = ROOT / "tests/image/engine/engine.sh"
UP_S = 600
DOWN_S = 120


@contextmanager
def running(folder: Path, *, keep: bool) -> Iterator[bool]:
    """Whether it is a private one. Its address is in os.environ meanwhile. SetupError where there can be none."""
    if answers():
        say("image: using the Docker Engine that answers here")
        yield False
        return
    say(f"image: no Docker Engine answers, starting a private one in {folder} ...")
    before = dict(os.environ)
    try:
        up(folder)
        yield True
    finally:
        os.environ.clear()
        os.environ.update(before)
        if not keep:
            _script("down", folder, DOWN_S)


def answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=30, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def up(folder: Path) -> None:
    """Starts it, and makes it the one that `docker` talks to."""
    _script("up", folder, UP_S)
    for line in _script("env", folder, UP_S).splitlines():
        name, _, value = line.partition("=")
        os.environ[name] = value


def bridges() -> set[str]:
    """Those of private engines, of this run or another."""
    return {path.name for path in Path("/sys/class/net").glob("berth-test*")}


def left(folder: Path) -> list[str]:
    """What should have gone with a private engine: files of a run, mounts, processes."""
    found = [str(folder / "run")] if (folder / "run").exists() else []
    found += [
        f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines() if f"{folder}/" in line
    ]
    found += [f"process {pid}" for pid in _processes(f"{folder}/run/")]
    return found


def _processes(words: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:  # it has just ended
            continue
    return found


def _script(command: str, folder: Path, timeout_s: float) -> str:
    """Its standard output. SetupError with what it said where it fails."""
    done = subprocess.run(
        [SCRIPT, command, folder],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise SetupError(f"no Docker Engine answers, and {done.stderr.strip().removeprefix('engine.sh: ')}")
    return done.stdout

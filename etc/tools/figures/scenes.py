"""The walks, those of each program in a process of their own: `python -m etc.tools.figures.scenes router`."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from etc.tools.figures.boot_walks import boot_walks
from etc.tools.figures.box import Box, box
from etc.tools.figures.control_walks import control_walks
from etc.tools.figures.recorder import Recorder
from etc.tools.figures.router_walks import router_walks
from etc.tools.figures.walk import Walk

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 120
SCENES: Mapping[str, Callable[[Box, Recorder], dict[str, Walk]]] = {
    "router": router_walks,
    "boot": boot_walks,
    "control": control_walks,
}


class SceneError(Exception):
    """A program of Berth failed; the message is its output."""


def walks_of(scenes: Sequence[str] = tuple(SCENES)) -> dict[str, Walk]:
    """Walks by name, in the order of the scenes."""
    with ThreadPoolExecutor(len(scenes)) as pool:
        return {name: walk for walks in pool.map(_play, scenes) for name, walk in walks.items()}


def _play(scene: str) -> dict[str, Walk]:
    command = [sys.executable, "-m", "etc.tools.figures.scenes", scene]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=PATIENCE_S, check=False)
    if done.returncode != 0:
        raise SceneError(f"{' '.join(command[1:])} ended with {done.returncode}:\n{done.stderr.decode()}")
    return msgspec.json.decode(done.stdout, type=dict[str, Walk])


def main(scene: str) -> None:
    with box() as made:
        walks = SCENES[scene](made, Recorder(ROOT / "berth"))
    sys.stdout.buffer.write(msgspec.json.encode(walks))


if __name__ == "__main__":
    main(sys.argv[1])

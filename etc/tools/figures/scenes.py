"""The walks, those of each program in a process of their own: `python -m etc.tools.figures.scenes router`."""

import subprocess
import sys
import tempfile
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
    """Once more where the first time fails: on a busy machine the client in a scene may give up waiting."""
    reason = ""
    for _ in range(2):
        with tempfile.TemporaryDirectory(prefix="berth-scene-") as folder:
            file = Path(folder, "walks.json")
            command = [sys.executable, "-m", "etc.tools.figures.scenes", scene, str(file)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=PATIENCE_S, check=False)
            if done.returncode == 0 and file.exists():
                return msgspec.json.decode(file.read_bytes(), type=dict[str, Walk])
            reason = f"{' '.join(command[1:])} ended with {done.returncode}:\n{done.stderr.decode()}"
    raise SceneError(reason)


def main(scene: str, file: str) -> None:
    with box() as made:
        walks = SCENES[scene](made, Recorder(ROOT / "berth"))
    Path(file).write_bytes(msgspec.json.encode(walks))


if __name__ == "__main__":
    main(*sys.argv[1:])

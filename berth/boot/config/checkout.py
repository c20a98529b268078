"""Where things lie when Berth runs from a clone of its repository, not in its image: all within the clone."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LONGEST_RUN_DIR = 80  # bytes; a Unix socket's path ends at 107, and supervisord adds its own name and a pid


def defaults(environ: Mapping[str, str], root: Path = ROOT) -> dict[str, str]:
    """The defaults of variables that differ from the image's; none where `root` is no clone."""
    if not (root / "etc/tools/setup/run.py").is_file():
        return {}
    return within(root, environ)


def within(root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """A run directory for each port, so that appliances live side by side; data and engines are shared."""
    port = environ.get("BERTH_PORT") or "8000"
    return {
        "BERTH_RUN_DIR": str(run_dir(root, port, environ)),
        "BERTH_DATA": str(root / ".berth/data"),
        "BERTH_ENGINE_HOME": str(root / ".engines"),
    }


def run_dir(root: Path, port: str, environ: Mapping[str, str]) -> Path:
    """In the clone, unless its path is too long for a socket, or holds what supervisord's configuration cannot."""
    inside = root / f".berth/run-{port}"
    if len(os.fsencode(inside)) <= LONGEST_RUN_DIR and str(inside).isprintable() and not set(str(inside)) & set(';"'):
        return inside
    name = hashlib.sha256(os.fsencode(inside)).hexdigest()[:12]
    return Path(environ.get("XDG_RUNTIME_DIR") or "/tmp", private_name(), name)  # noqa: S108 - see etc/tools/setup/run.py


def private_name() -> str:
    return f"berth-{os.getuid()}"

"""Default paths when Berth runs from a git checkout instead of its image: all of them inside the checkout."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LONGEST_RUN_DIR = 80  # bytes; a Unix socket's path may have 107, including the name and pid that supervisord appends


def defaults(environ: Mapping[str, str], root: Path = ROOT) -> dict[str, str]:
    """The defaults of variables that differ from the image's; none if `root` is not a checkout."""
    if not (root / "etc/tools/setup/run.py").is_file():
        return {}
    return within(root, environ)


def within(root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """One run directory per port, so that several appliances can run; data and engines are shared."""
    port = environ.get("BERTH_PORT") or "8000"
    return {
        "BERTH_RUN_DIR": str(run_dir(root, port, environ)),
        "BERTH_DATA": str(root / ".berth/data"),
        "BERTH_ENGINE_HOME": str(root / ".engines"),
    }


def run_dir(root: Path, port: str, environ: Mapping[str, str]) -> Path:
    """Inside the checkout, unless its path is too long for a socket or contains characters that supervisord rejects."""
    inside = root / f".berth/run-{port}"
    if len(os.fsencode(inside)) <= LONGEST_RUN_DIR and str(inside).isprintable() and not set(str(inside)) & set(';"'):
        return inside
    name = hashlib.sha256(os.fsencode(inside)).hexdigest()[:12]
    return Path(environ.get("XDG_RUNTIME_DIR") or "/tmp", private_name(), name)  # noqa: S108 - see etc/tools/setup/run.py


def private_name() -> str:
    return f"berth-{os.getuid()}"

"""Installs the other routers for the benchmark into .bench, which git ignores: nothing of them is Berth's.

Python packages come from the package index with all their pins (etc/tools/rivals/pins); nginx is the machine's own, or
Debian's package unpacked beside the others.
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from etc.tools.rivals.failure import BenchError

ROOT = Path(__file__).resolve().parents[3]
HOME = ROOT / ".bench"
PINS = ROOT / "etc/tools/rivals/pins"
_UV = ROOT / "etc/tools/setup/uv.sh"
_STAMP = ".installed"


def make_home(home: Path = HOME) -> Path:
    home.mkdir(exist_ok=True)
    (home / ".gitignore").write_text("*\n")
    return home


def packages(name: str) -> Path:
    """The environment that pins/<name>.txt describes, made if need be. BenchError where it cannot be made."""
    target, pins = make_home() / name, PINS / f"{name}.txt"
    stamp = target / _STAMP
    if stamp.exists() and stamp.read_text() == pins.read_text():
        return target
    shutil.rmtree(target, ignore_errors=True)
    run(str(_UV), "venv", "--quiet", str(target))
    run(
        *(str(_UV), "pip", "install", "--quiet", "--no-deps"),
        *("--python", str(target / "bin/python"), "--requirement", str(pins)),
    )
    stamp.write_text(pins.read_text())
    return target


def version(name: str) -> str:
    """The one that etc/tools/rivals/pins/<name>.txt names."""
    lines = (PINS / f"{name}.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{name}=="))


def nginx() -> str:
    """Its program. BenchError where there is none to be had."""
    if found := shutil.which("nginx"):
        return found
    target = make_home() / "nginx"
    program = target / "usr/sbin/nginx"
    if not program.exists():
        _unpack_nginx(target)
    run(str(program), "-v")  # its libraries are the machine's: they may be missing
    return str(program)


def _unpack_nginx(target: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise BenchError("there is no nginx on PATH, and this is no Debian to take it from")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    run("apt-get", "download", "nginx", folder=target)
    for package in target.glob("nginx_*.deb"):
        run("dpkg", "-x", str(package), str(target))


def run(*command: str, folder: Path = ROOT) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise BenchError(f"{_shown(command)} failed: {_last_words(exc)}") from exc


def _shown(command: Sequence[str]) -> str:
    return " ".join(word.removeprefix(f"{ROOT}/") for word in command)


def _last_words(exc: Exception) -> str:
    said = getattr(exc, "stderr", None) or str(exc)
    return " ".join(str(said).split())[-400:]

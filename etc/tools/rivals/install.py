"""Installs the other routers for the benchmark into .bench, which git ignores: nothing of them is Berth's.

Python packages come from the package index with all their pins (etc/tools/rivals/pins); nginx is the machine's own, or
Debian's package unpacked beside the others.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from etc.tools.rivals.failure import BenchError

ROOT = Path(__file__).resolve().parents[3]
HOME = ROOT / ".bench"
PINS = ROOT / "etc/tools/rivals/pins"
_UV = ROOT / "etc/tools/setup/uv.sh"
_STAMP = ".installed"
_SYSTEM_PYTHON = "/usr/bin/python3"


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


def berth() -> Path:
    """Berth's environment as in the image: compiled, on the system's Python. BenchError where it cannot be made."""
    target, stamp = make_home() / "berth", HOME / "berth" / _STAMP
    sources = [ROOT / "uv.lock", ROOT / "pyproject.toml", *ROOT.glob("etc/compile/*.*"), *ROOT.glob("berth/**/*.py")]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.read_bytes() if path.name != "_version.py" else b"")
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return target
    shutil.rmtree(target, ignore_errors=True)
    requirements, wheels = target / "requirements.txt", target / "dist"
    locked = ("--frozen", "--no-dev", "--no-emit-project", "--no-hashes", "--output-file", str(requirements))
    run(str(_UV), "venv", "--quiet", "--python", _python(), str(target))
    run(str(_UV), "export", "--quiet", *locked)
    run(str(_UV), "build", "--quiet", "--wheel", "--python", _python(), "--out-dir", str(wheels), COMPILE="1")
    wheel = str(next(wheels.glob("*.whl")))
    run(str(_UV), "pip", "install", "--quiet", "--python", str(target / "bin/python"), "-r", str(requirements), wheel)
    stamp.write_text(digest.hexdigest())
    return target


def _python() -> str:
    """The system's, unless it is too old."""
    test = "import sys; sys.exit(sys.version_info < (3, 11))"
    is_new = shutil.which(_SYSTEM_PYTHON) and subprocess.run([_SYSTEM_PYTHON, "-c", test], check=False).returncode == 0
    return _SYSTEM_PYTHON if is_new else sys.executable


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


def run(*command: str, folder: Path = ROOT, **variables: str) -> None:
    try:
        environ = os.environ | variables
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, env=environ)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise BenchError(f"{_shown(command)} failed: {_last_words(exc)}") from exc


def _shown(command: Sequence[str]) -> str:
    return " ".join(word.removeprefix(f"{ROOT}/") for word in command)


def _last_words(exc: Exception) -> str:
    said = getattr(exc, "stderr", None) or str(exc)
    return " ".join(str(said).split())[-400:]

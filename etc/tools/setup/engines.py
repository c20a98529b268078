"""Installs vLLM for a clone, in an environment of its own: `python -m etc.tools.setup.engines [HOME]`.

Two cases: 1. a machine with an NVIDIA GPU gets vLLM itself; 2. any other gets the CPU build, without the parts for
pictures and sound. A stamp, written last, tells a whole environment from a half-made one, which is made again.
"""

import ctypes
import fcntl
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from etc.engines.vllm_metadata import write_vllm_metadata
from etc.tools.setup.progress import SetupError, say

ROOT = Path(__file__).resolve().parents[3]
UV = ROOT / "etc/tools/setup/uv.sh"
LOCKS = {True: ROOT / "etc/engines/vllm.txt", False: ROOT / "etc/engines/vllm-cpu.txt"}  # with a GPU, without
LOCKED_MACHINES = ("x86_64", "aarch64")  # what the locks are made for
TORCH = "2.13.0"
STAMP = ".installed"
ATTACH = "make run BERTH_MODELS=NAME=http://HOST:PORT/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a build of torch may come from."""

    name: str
    arguments: tuple[str, ...]  # of pip
    disk_bytes: int  # what torch and what it brings along take


TORCH_SOURCES = (
    Source(name="where pip is configured to look", arguments=(f"torch=={TORCH}+cpu", "--no-deps"), disk_bytes=2**30),
    Source(
        name="PyTorch's CPU index",
        arguments=(f"torch=={TORCH}+cpu", "--no-deps", "--index-url", "https://download.pytorch.org/whl/cpu"),
        disk_bytes=2**30,
    ),
    Source(name="the package index, with CUDA", arguments=(f"torch=={TORCH}",), disk_bytes=8 * 2**30),
)


def has_gpu(device: Path = Path("/dev/nvidiactl")) -> bool:
    """Whether an NVIDIA driver is at work here."""
    if device.exists():
        return True
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True, check=False).returncode == 0


def install_vllm(home: Path, *, gpu: bool) -> None:
    """Leaves a whole environment in <home>/vllm: at once when it is there already, else after some minutes. A link to
    the home of another clone is that home.
    """
    home = home.resolve()
    target = home / "vllm"
    if is_installed(target, gpu=gpu):
        return
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home / ".vllm.lock"):
        if is_installed(target, gpu=gpu):  # by the run that we have waited for
            return
        shutil.rmtree(target, ignore_errors=True)
        if gpu:
            _install_for_gpu(target)
        else:
            _install_for_cpu(target)
        (target / STAMP).write_text(_wanted(target, gpu=gpu))
    say(f"vLLM: installed into {target}.")


def is_installed(target: Path, *, gpu: bool) -> bool:
    try:
        return (target / STAMP).read_text() == _wanted(target, gpu=gpu)
    except OSError:
        return False


def _wanted(target: Path, *, gpu: bool) -> str:
    """What the stamp of a whole environment holds. An environment does not survive a move."""
    return f"{target}\ntorch=={TORCH}\n{LOCKS[gpu].read_text()}\n"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("vLLM: another set-up is installing it, waiting ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install_for_gpu(target: Path) -> None:
    check_machine(platform.machine(), "GPU")
    need_disk(target.parent, 12 * 2**30)
    _make_environment(target)
    _install_lock(target, LOCKS[True], "vLLM for the GPU", "about 10 GB")


def _install_for_cpu(target: Path) -> None:
    check_cpu(platform.machine(), Path("/proc/cpuinfo").read_text())
    check_numa()
    need_disk(target.parent, 3 * 2**30)
    _make_environment(target)
    _install_torch(target)
    _install_lock(target, LOCKS[False], "vLLM for the CPU", "2.3 GB")
    write_vllm_metadata(target)


def _install_lock(target: Path, lock: Path, what: str, size: str) -> None:
    count = sum(1 for line in lock.read_text().splitlines() if "==" in line)
    say(f"{what}: installing {count} packages into {target} ({size}) ...")
    options = ("--no-deps", "--require-hashes", "--compile-bytecode", "--requirement", str(lock))
    _uv("pip", "install", "--python", str(target / "bin/python"), *options)


def check_machine(machine: str, kind: str) -> None:
    """SetupError where vLLM has no build of that kind."""
    if machine not in LOCKED_MACHINES:
        raise SetupError(f"vLLM has no {kind} build for {machine!r}. Attach an engine that runs elsewhere: {ATTACH}")


def check_cpu(machine: str, cpuinfo: str) -> None:
    """SetupError where the CPU build would not load."""
    check_machine(machine, "CPU")
    if machine == "x86_64" and "avx2" not in cpuinfo:
        raise SetupError(f"vLLM's CPU build needs a CPU with AVX2. Attach an engine that runs elsewhere: {ATTACH}")


def check_numa(library: str = "libnuma.so.1") -> None:
    """SetupError without the one system library that vLLM's CPU build does not bring along."""
    try:
        ctypes.CDLL(library)
    except OSError:
        raise SetupError(f"vLLM's CPU build needs {library}. Debian, Ubuntu: apt-get install libnuma1") from None


def need_disk(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise SetupError(
            f"{folder} has {free / 1e9:.1f} GB free, vLLM takes {needed_bytes / 1e9:.1f} GB. Make room, or name a "
            "folder on another disk: make run BERTH_ENGINE_HOME=/path"
        )


def _make_environment(target: Path) -> None:
    # pip belongs to it: torch is looked for with pip, which knows find-links and all else that pip.conf says
    _uv("venv", "--quiet", "--seed", "--python", sys.executable, str(target))


def _install_torch(target: Path) -> None:
    pip = [str(target / "bin/python"), "-m", "pip", "--disable-pip-version-check"]
    for source in TORCH_SOURCES:
        if not _offers(pip, source):
            continue
        need_disk(target.parent, source.disk_bytes + 2 * 2**30)
        say(f"vLLM for the CPU: installing torch {TORCH} from {source.name} ...")
        _run([*pip, "install", "--no-compile", *_quiet(), *source.arguments])
        return
    raise SetupError(
        f"no torch {TORCH} was found: {', '.join(source.name for source in TORCH_SOURCES)}. Check the network, or let "
        f"pip find it: PIP_FIND_LINKS=/folder/with/torch-{TORCH}+cpu-....whl make run"
    )


def _offers(pip: Sequence[str], source: Source) -> bool:
    patience = ["--retries", "1", "--timeout", "15"]
    command = [*pip, "install", "--dry-run", "--quiet", "--no-deps", *patience, *source.arguments]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _uv(*arguments: str) -> None:
    # the reader of a log wants no list of packages, the one at a terminal wants progress bars
    _run([str(UV), arguments[0], *([] if "--quiet" in arguments else _quiet()), *arguments[1:]])


def _quiet() -> list[str]:
    return [] if sys.stderr.isatty() else ["--quiet"]


def _run(command: Sequence[str]) -> None:
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        raise SetupError(f"exit code {code} from: {' '.join(command)}\nIts own words stand above. Then: make run")


def main() -> int:
    home = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BERTH_ENGINE_HOME") or ROOT / ".engines")
    try:
        install_vllm(home.absolute(), gpu=has_gpu())
    except SetupError as error:
        print(f"\nsetup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

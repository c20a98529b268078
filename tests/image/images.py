"""Builds the image under test, and on it the one with the fake engines."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from berth import __version__
from etc.tools.setup.progress import SetupError, say
from tests.e2e.appliance import ROOT
from tests.image.docker import attempt, docker, label, run_name

BASE_SCRIPT = ROOT / "tests/image/engine/base.sh"
FAKE_ENGINES = ROOT / "tests/image/fake_engines"
PULL_S = 300
BUILD_S = 1500
# Where this machine gets its packages from: passed on to the build where the environment says so.
SOURCES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "TORCH_CPU_INDEX", "NVIDIA_INDEX", "APT_MIRROR", "CA_CERTIFICATES")


class BuildError(Exception):
    """The Dockerfile does not build; the message is the end of what the builder said."""


@contextmanager
def base(folder: Path, *, stand_in: bool) -> Iterator[str]:
    """The image to build on: the Dockerfile's own base, or where no registry has it, a bare Debian."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    real = f"{default_of('BASE_IMAGE', dockerfile)}:{default_of('BASE_TAG', dockerfile)}"
    if attempt("image", "inspect", real).returncode == 0:
        yield real
    elif _pull(real):
        yield real
        attempt("image", "rm", real)
    else:
        yield _stand_in(folder, real, stand_in=stand_in)


def default_of(argument: str, dockerfile: str) -> str:
    found = re.search(rf'^ARG {argument}="?([^"\n]+)"?$', dockerfile, re.MULTILINE)
    assert found is not None, f"the Dockerfile has no default for {argument}"
    return found[1]


def _pull(name: str) -> bool:
    try:
        return attempt("pull", "--quiet", name, timeout_s=PULL_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _stand_in(folder: Path, real: str, *, stand_in: bool) -> str:
    if not stand_in:
        raise SetupError(f"{real} is not here and cannot be pulled: `docker pull {real}` says why")
    say(f"image: {real} cannot be pulled, making a bare Debian in its place ...")
    name = f"{run_name()}:base"
    subprocess.run([BASE_SCRIPT, folder, name], check=True)
    return name


def build(root: Path, base_image: str, engines: str) -> str:
    """The image under test."""
    tag = f"{run_name()}:berth"
    say(f"image: building with ENGINES={engines!r} on {base_image} ...")
    name, _, version = base_image.rpartition(":")
    arguments = [f"BASE_IMAGE={name}", f"BASE_TAG={version}", f"ENGINES={engines}", f"VERSION={__version__}"]
    arguments += [f"{source}={os.environ[source]}" for source in SOURCES if os.environ.get(source)]
    given = [f"--build-arg={argument}" for argument in arguments]
    # The host's network, for a bridge may have no way out.
    _build("--network=host", *given, *_wheels(os.environ), "--tag", tag, str(root))
    size_bytes = int(docker("image", "inspect", "--format", "{{.Size}}", tag))
    say(f"image: {tag} is built, {size_bytes / 1e9:.2f} GB")
    return tag


def _wheels(environ: Mapping[str, str]) -> Iterator[str]:
    """A folder of wheels that pip is told to look into."""
    folders = [folder for folder in environ.get("PIP_FIND_LINKS", "").split() if Path(folder).is_dir()]
    yield from (f"--build-context=wheels={folder}" for folder in folders[:1])


def with_fake_engines(tag: str) -> str:
    name = f"{run_name()}:engines"
    user = docker("image", "inspect", "--format", "{{.Config.User}}", tag).strip() or "0:0"
    arguments = [f"--build-arg=IMAGE={tag}", f"--build-arg=IMAGE_USER={user}"]
    tables = f"--build-context=tables={ROOT / 'tests/fixtures'}"
    _build("--network=none", *arguments, tables, "--tag", name, str(FAKE_ENGINES))
    return name


def _build(*arguments: str) -> None:
    command = ["docker", "build", "--progress=plain", "--label", label(), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=BUILD_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"the image was not built within {BUILD_S} s: {' '.join(command)}") from error
    if done.returncode:
        raise BuildError(f"the image cannot be built: {' '.join(command)} says\n{done.stderr[-6000:]}")
    docker("image", "prune", "--force", "--filter", f"label={label()}")  # the one that had this name before

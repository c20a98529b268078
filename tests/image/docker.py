"""The docker command line, and the names of what one run of the tests makes: all of it carries the run's label."""

import os
import subprocess
from collections.abc import Mapping

RUN_VARIABLE = "IMAGE_TEST_RUN"  # set by tests.image.run, as are the two below
IMAGE_VARIABLE = "IMAGE_TEST_IMAGE"  # the image under test, with the fake engines
ENGINES_VARIABLE = "IMAGE_TEST_ENGINES"  # the ENGINES that it was built with
LABEL = "berth.image-test"


class DockerError(Exception):
    """A docker command failed; the message is what it said."""


def docker(*arguments: str, timeout_s: float = 120, environ: Mapping[str, str] | None = None) -> str:
    """Standard output. DockerError where it fails."""
    done = attempt(*arguments, timeout_s=timeout_s, environ=environ)
    if done.returncode:
        raise DockerError(f"docker {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def attempt(
    *arguments: str, timeout_s: float = 120, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The same for a command that may fail."""
    return subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environ or {})},
    )


def run_name() -> str:
    """The prefix of every name that this run gives."""
    return os.environ[RUN_VARIABLE]


def label() -> str:
    return f"{LABEL}={run_name()}"


def lines(*arguments: str) -> list[str]:
    return docker(*arguments).split()

"""`make image-test`: a Docker Engine, the image, the tests of it, and all of that gone again.

An engine that answers already is used, and only what this run has made is removed from it. Where none does, root on an
amd64 Debian gets a private one, below BERTH_IMAGE_TEST_CACHE (default: ~/.cache/berth-image-test), where packages and
build cache stay for the next run. A machine that can have neither fails: BERTH_SKIP_IMAGE_TEST=1 leaves the image
untested, and says so.
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from etc.tools.setup.progress import SetupError, say
from tests.e2e.appliance import ROOT
from tests.image import docker, docker_cleanup, docker_engine, images

PREFIX = "berth-image-test"
KEPT_RUN = f"{PREFIX}-kept"
DEFAULT_ENGINES = "vllm-cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    cache: Path
    engines: str
    keep: bool
    pytest: tuple[str, ...]


def main(argv: Sequence[str]) -> int:
    options = parse(argv, os.environ)
    if os.environ.get("BERTH_SKIP_IMAGE_TEST") == "1":
        say("image: SKIPPED, the image is not tested: BERTH_SKIP_IMAGE_TEST=1")
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return test(options)
    except SetupError as error:
        say(
            f"image: FAILED, this machine cannot test it: {error}. To leave the image untested: BERTH_SKIP_IMAGE_TEST=1"
        )
    except images.BuildError as error:
        say(f"image: FAILED, {error}")
    except KeyboardInterrupt:
        say("image: interrupted, and cleared up")
        return 130
    return 1


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.image.run", description=__doc__)
    parser.add_argument("--engines", default=DEFAULT_ENGINES, help="what to build the image with (default %(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave engine and images for the next run with --keep")
    given, rest = parser.parse_known_args(argv)
    cache = environ.get("BERTH_IMAGE_TEST_CACHE") or Path("~/.cache", PREFIX).expanduser()
    return Options(cache=Path(cache).resolve(), engines=given.engines, keep=given.keep, pytest=tuple(rest))


def test(options: Options) -> int:
    before = docker_engine.bridges()
    with locked(options.cache), docker_engine.running(options.cache, keep=options.keep) as private:
        os.environ[docker.RUN_VARIABLE] = KEPT_RUN if options.keep else f"{PREFIX}-{uuid.uuid4().hex[:6]}"
        if options.keep:
            return build_and_test(options, private=private)
        docker_cleanup.remove(docker_cleanup.found(private=private))  # of a run that was killed
        try:
            code = build_and_test(options, private=private)
        finally:
            docker_cleanup.remove(docker_cleanup.found(private=private))
        left = docker_cleanup.words(docker_cleanup.found(private=private))
    left += [*docker_engine.left(options.cache), *(docker_engine.bridges() - before)] if private else []
    if left:
        say(f"image: FAILED, the run has left: {', '.join(left)}")
    return code or int(bool(left))


def build_and_test(options: Options, *, private: bool) -> int:
    with images.base(options.cache, stand_in=private) as base:
        tag = images.build(ROOT, base, options.engines)
        os.environ[docker.IMAGE_VARIABLE] = images.with_fake_engines(tag)
        os.environ[docker.ENGINES_VARIABLE] = options.engines
        return run_tests(options)


def run_tests(options: Options) -> int:
    say("image: testing ...")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--durations", "10", *options.pytest]
    began = time.monotonic()
    done = subprocess.run([*command, str(ROOT / "tests/image")], cwd=ROOT, check=False)
    say(f"image: tests took {time.monotonic() - began:.0f} s, exit code {done.returncode}")
    return done.returncode


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """One run at a time: two would take each other's containers for their own."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"{cache} cannot be made: {error.strerror}. Set BERTH_IMAGE_TEST_CACHE") from error
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(f"another run uses {cache}: wait for it, or set BERTH_IMAGE_TEST_CACHE") from None
        yield


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt  # so that SIGTERM clears up too


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Walks through boot: from BERTH_MODELS to the Plan, and to the point where boot becomes supervisord."""

import os
from collections.abc import Callable
from typing import NoReturn

from etc.tools.figures.box import Box, run_command
from etc.tools.figures.recorder import Recorder
from etc.tools.figures.walk import Walk


class _Forks(BaseException):  # no error: nothing may catch it
    pass


def boot_walks(box: Box, recorder: Recorder) -> dict[str, Walk]:
    """Walks by name: `berth plan`, and `berth boot` until its first fork, when all files are written."""
    environ = box.environ(f"chat={box.model}@vllm")
    with recorder.installed():
        return {
            "plan": _recorded(recorder, lambda: run_command(["plan", "--json"], environ)),
            "boot": _recorded(recorder, lambda: _boot(environ)),
        }


def _recorded(recorder: Recorder, act: Callable[[], object]) -> Walk:
    recorder.start()
    act()
    return recorder.stop()


def _boot(environ: dict[str, str]) -> None:
    original, os.fork = os.fork, _fork
    try:
        run_command(["boot"], environ)
    except _Forks:
        return
    finally:
        os.fork = original
    raise RuntimeError("berth boot did not fork")


def _fork() -> NoReturn:
    raise _Forks

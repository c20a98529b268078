"""What is recorded of a run, and what is left out."""

import asyncio
import importlib.util
import threading
from pathlib import Path
from typing import Any

import pytest

from etc.tools.figures.recorder import Recorder
from etc.tools.figures.walk import Step, length, usual

TEXT = """
import asyncio

def made_at_import(): return 1
CONSTANT = made_at_import()

class A:
    def method(self):
        return [inner(x) for x in (1, 2)]

def inner(x): return (lambda: x)()

async def waits():
    await asyncio.sleep(0)

async def beside():
    inner(0)
"""


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "a.py").write_text(TEXT)
    return Recorder(tmp_path / "pack")


def test_records_named_functions_in_order(tmp_path: Path, recorder: Recorder) -> None:
    with recorder.installed():
        recorder.start()
        module = _load(tmp_path)  # what runs at its import does not count
        module.A().method()
        walk = recorder.stop()
        module.inner(1)
    inner = Step(path="pack/a.py", function="inner")
    assert walk == (Step(path="pack/a.py", function="A.method", owner="A"), inner, inner)
    found = length(walk)
    assert (found.calls, found.functions, found.classes, found.files, found.file_changes) == (3, 2, 1, 1, 0)


def test_counts_the_resumption_of_a_coroutine(tmp_path: Path, recorder: Recorder) -> None:
    module = _load(tmp_path)
    with recorder.installed():
        recorder.start()
        asyncio.run(module.waits())
        assert [step.function for step in recorder.stop()] == ["waits", "waits"]


def test_leaves_out_background_work(tmp_path: Path, recorder: Recorder) -> None:
    module = _load(tmp_path)
    with recorder.installed():
        recorder.start()
        asyncio.run(module.beside())
        recorder.stop_idle()
        recorder.start()
        asyncio.run(module.beside())
        module.inner(1)
        assert [step.function for step in recorder.stop()] == ["inner"]


def test_records_threads_that_start_later(tmp_path: Path, recorder: Recorder) -> None:
    module = _load(tmp_path)
    with recorder.installed():
        recorder.start()
        thread = threading.Thread(target=module.inner, args=(1,))
        thread.start()
        thread.join()
        assert [step.function for step in recorder.stop()] == ["inner"]


def test_the_usual_walk_is_the_one_that_came_most_often() -> None:
    one, other = Step(path="a.py", function="f"), Step(path="b.py", function="g")
    assert usual([(one, other, one), (one, other), (one, other)]) == (one, other)


def _load(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("pack.a", folder / "pack" / "a.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

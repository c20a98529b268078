"""The command."""

import pytest

from etc.tools.figures.__main__ import WALKS, main
from etc.tools.figures.scenes import SCENES, walks_of


def test_lists_helpers_of_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--helpers", "berth/sim"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"{len(lines)} one-use private helpers"
    assert all(line.startswith("berth/sim/") for line in lines)


@pytest.mark.timeout(120)
def test_lists_a_walk_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--walk", "plan"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["file", "function"]
    assert lines[0].split() == ["berth/cli/main.py", "main"]
    assert "berth/plan/__init__.py  " in "".join(lines)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scene", SCENES)
def test_every_walk_of_a_scene_can_be_listed(scene: str) -> None:
    walks = walks_of([scene])
    assert list(walks) == [name for name, (of, _) in WALKS.items() if of == scene]
    assert all(walks.values())

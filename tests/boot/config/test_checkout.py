"""A clone keeps everything within itself; an installation knows nothing of clones."""

import os
from pathlib import Path

import pytest

from berth.boot.config.checkout import ROOT, defaults, run_dir, within

SOMEWHERE = {"XDG_RUNTIME_DIR": "/run/user/1000"}


def test_what_is_no_clone_has_the_defaults_of_the_image(tmp_path: Path) -> None:
    assert defaults({}, tmp_path) == {}


def test_a_clone_has_its_own() -> None:
    assert defaults({"BERTH_PORT": "9000"}) == within(ROOT, {"BERTH_PORT": "9000"})


def test_every_port_has_a_run_directory_of_its_own() -> None:
    first, second = (within(Path("/clone"), {"BERTH_PORT": port}) for port in ("", "9000"))
    assert first["BERTH_RUN_DIR"] == "/clone/.berth/run-8000"
    assert second["BERTH_RUN_DIR"] == "/clone/.berth/run-9000"
    assert first["BERTH_ENGINE_HOME"] == second["BERTH_ENGINE_HOME"] == "/clone/.engines"


@pytest.mark.parametrize("root", ["/" + "long/" * 30, "/a;b", '/a"b', "/a\nb"])
def test_a_path_that_no_socket_or_configuration_can_hold_is_replaced(root: str) -> None:
    short = run_dir(Path(root), "8000", SOMEWHERE)
    assert short.parent == Path(f"/run/user/1000/berth-{os.getuid()}")
    assert short != run_dir(Path(root), "8001", SOMEWHERE)
    assert run_dir(Path(root), "8000", {}).is_relative_to("/tmp")  # noqa: S108 - the default under test

"""A clone keeps everything within itself; an installation knows nothing of clones."""

import os
from pathlib import Path

import pytest

from berth.boot.config.checkout import ROOT, defaults, run_dir, within

SOMEWHERE = {"XDG_RUNTIME_DIR": "/run/user/1000"}


def test_outside_a_checkout_the_image_defaults_apply(tmp_path: Path) -> None:
    assert defaults({}, tmp_path) == {}


def test_a_checkout_has_its_own_defaults() -> None:
    assert defaults({"BERTH_PORT": "9000"}) == within(ROOT, {"BERTH_PORT": "9000"})


def test_each_port_has_its_own_run_directory() -> None:
    first, second = (within(Path("/clone"), {"BERTH_PORT": port}) for port in ("", "9000"))
    assert first["BERTH_RUN_DIR"] == "/clone/.berth/run-8000"
    assert second["BERTH_RUN_DIR"] == "/clone/.berth/run-9000"
    assert first["BERTH_ENGINE_HOME"] == second["BERTH_ENGINE_HOME"] == "/clone/.engines"


@pytest.mark.parametrize("root", ["/" + "long/" * 30, "/a;b", '/a"b', "/a\nb"])
def test_replaces_a_run_directory_that_supervisord_cannot_use(root: str) -> None:
    short = run_dir(Path(root), "8000", SOMEWHERE)
    assert short.parent == Path(f"/run/user/1000/berth-{os.getuid()}")
    assert short != run_dir(Path(root), "8001", SOMEWHERE)
    assert run_dir(Path(root), "8000", {}).is_relative_to("/tmp")  # noqa: S108 - the default under test

from pathlib import Path

import pytest

from etc.tools.rivals import install
from etc.tools.rivals.failure import BenchError

PROGRAMS = sorted(path.stem for path in install.PINS.glob("*.txt"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_package_is_pinned(name: str) -> None:
    lines = (install.PINS / f"{name}.txt").read_text().splitlines()
    pins = [line.partition(" ;")[0] for line in lines if not line.startswith("#")]
    assert all(pin.count("==") == 1 for pin in pins)
    assert install.version(name)


def test_the_routers_are_the_ones_that_are_to_be_beaten() -> None:
    assert install.version("vllm-router") == "0.1.17"
    assert set(PROGRAMS) == {"litellm", "py-spy", "sglang-router", "vllm-router"}


def test_git_does_not_see_what_is_installed(tmp_path: Path) -> None:
    home = install.make_home(tmp_path / ".bench")
    assert (home / ".gitignore").read_text() == "*\n"
    assert install.make_home(home) == home


def test_what_cannot_be_run_is_told_in_words() -> None:
    with pytest.raises(BenchError, match=r"sh -c echo no room >&2; exit 3 failed: no room$"):
        install.run("sh", "-c", "echo no room >&2; exit 3")
    with pytest.raises(BenchError, match="no-such-program"):
        install.run("no-such-program")

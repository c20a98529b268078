"""What is taken out of an environment, and what must stay."""

from pathlib import Path

import pytest

from etc.engines.prune import absolute, imported_tests, main, prune


class Environment:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packages = folder / "lib/python3.12/site-packages"
        self.packages.mkdir(parents=True)

    def add(self, name: str, text: str = "") -> Path:
        path = self.packages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def prune(self) -> int:
        return prune(self.packages, self.folder / ".pruned")


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "vllm")


def test_removes_unimported_tests(environment: Environment) -> None:
    test = environment.add("numpy/linalg/tests/test_linalg.py", "12345")
    kept = environment.add("numpy/testing/__init__.py")
    assert environment.prune() == 5
    assert not test.parent.exists()
    assert kept.exists()


@pytest.mark.parametrize(
    "line",
    [
        "from triton.tests import helper",
        "    import triton.tests.helper",
        "from . import tests",
        "from .tests import helper",
        "from triton import (language, tests)",
    ],
)
def test_keeps_tests_that_the_package_imports(environment: Environment, line: str) -> None:
    environment.add("triton/compiler.py", line)
    test = environment.add("triton/tests/helper.py")
    environment.prune()
    assert test.exists()


def test_removes_tests_imported_only_by_tests(environment: Environment) -> None:
    environment.add("scipy/tests/test_all.py", "from scipy.special.tests import data")
    test = environment.add("scipy/special/tests/data.py")
    environment.prune()
    assert not test.exists()


def test_keeps_a_package_with_that_name(environment: Environment) -> None:
    package = environment.add("tests/__init__.py")
    environment.prune()
    assert package.exists()


def test_removes_static_libraries_except_those_for_kernels(environment: Environment) -> None:
    large = environment.add("nvidia/cu13/lib/libcufft_static.a", "1234")
    runtime = environment.add("nvidia/cu13/lib/libcudart_static.a")
    assert environment.prune() == 4
    assert not large.exists()
    assert runtime.exists()


def test_fails_if_a_later_package_needs_a_removed_file(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.add("triton/tests/helper.py")
    assert main(environment.folder) == 0
    environment.add("engine/kernels.py", "from triton.tests.helper import check")
    assert main(environment.folder) == 1
    assert "triton.tests was taken out and is imported now" in capsys.readouterr().err


def test_second_part_removes_its_own_files(environment: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    environment.add("a/tests/x.py", "1")
    environment.prune()
    environment.add("b/tests/x.py", "1" * 2_000_000)
    assert main(environment.folder) == 0
    assert "2 MB taken out" in capsys.readouterr().out
    assert (environment.folder / ".pruned").read_text() == "a.tests\nb.tests\n"


@pytest.mark.parametrize(
    ("module", "here", "name"),
    [
        ("a.b", ("x",), "a.b"),
        (".b", ("x", "y"), "x.y.b"),
        (".", ("x", "y"), "x.y"),
        ("..b", ("x", "y"), "x.b"),
    ],
)
def test_resolves_relative_imports(module: str, here: tuple[str, ...], name: str) -> None:
    assert absolute(module, here) == name


def test_reads_files_that_are_not_utf8(environment: Environment) -> None:
    path = environment.add("old/module.py")
    path.write_bytes(b"# \xe9\nimport old.tests\n")
    assert imported_tests(environment.packages) == {"old.tests"}

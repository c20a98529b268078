"""Which modules are compiled, and that everything else works without a compiler."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from berth import build_form, frame_template
from etc.compile.assert_compiled import main
from etc.compile.modules import LIST, read

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("berth/sse.py", "berth/router/pool.py", "berth/router/proxy.py", "berth/router/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_every_listed_module_exists() -> None:
    libraries = read(ROOT, LIST.read_text())
    assert len({module for modules in libraries.values() for module in modules}) == sum(map(len, libraries.values()))
    assert all(libraries.values())


def test_a_pattern_stands_for_the_modules_that_it_matches(source: Path) -> None:
    text = "# why\n[one]\nberth/sse.py  # hot\n[two]\nberth/router/proxy.py\nberth/router/*\n"
    assert read(source, text) == {"one": ["berth/sse.py"], "two": ["berth/router/proxy.py", "berth/router/pool.py"]}


@pytest.mark.parametrize("line", ["berth/gone.py", "berth/router/*.txt"])
def test_a_pattern_without_a_module_is_an_error(source: Path, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(line))):
        read(source, f"[one]\n{line}\n")


def test_what_is_not_compiled_is_named(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modules = [module for found in read(ROOT, LIST.read_text()).values() for module in found]
    for module in modules:
        (source / module).parent.mkdir(parents=True, exist_ok=True)
        (source / module).touch()
        (source / module).with_suffix(".cpython-311-x86_64-linux-gnu.so").touch()
    assert main(str(source)) == 0
    (source / modules[0]).with_suffix(".cpython-311-x86_64-linux-gnu.so").unlink()
    assert main(str(source)) == 1
    assert str(source / modules[0]) in capsys.readouterr().out


def test_a_clone_needs_no_compiler() -> None:
    """What the build requires by default is the two packages of hatch; mypy and setuptools come with COMPILE=1."""
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert [re.split(r"[<>=]", one)[0] for one in required] == ["hatchling", "hatch-vcs"]


def test_the_form_is_that_of_the_modules_that_run() -> None:
    compiled = not str(frame_template.__file__).endswith(".py")
    assert compiled is build_form.COMPILED
    assert build_form.VERSION_AND_FORM.endswith("(compiled)" if compiled else "(interpreted)")


def test_no_interpreted_class_has_a_compiled_base_class() -> None:
    """A compiled base class does not see the class attributes of an interpreted subclass."""
    compiled = {module for found in read(ROOT, LIST.read_text()).values() for module in found}
    classes = {
        node.name: (str(path.relative_to(ROOT)), [base.id for base in node.bases if isinstance(base, ast.Name)])
        for path in (ROOT / "berth").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    crossing = [
        f"{module}: {name}({base})"
        for name, (module, bases) in classes.items()
        for base in bases
        if base in classes and classes[base][0] in compiled and module not in compiled
    ]
    assert [found for found in crossing if "Error(" not in found] == []

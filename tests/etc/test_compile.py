"""Which modules are compiled, and that everything else works without a compiler."""

import re
import tomllib
from collections import UserDict
from pathlib import Path

import pytest

from berth import build_form, frame_template
from berth.dialects.choices import check_types
from etc.compile import modules
from etc.compile.assert_compiled import main

ROOT = Path(__file__).resolve().parents[2]


def test_every_listed_module_exists_once() -> None:
    listed = modules.modules(ROOT)
    assert listed
    assert len(set(listed)) == len(listed)


def test_unknown_module_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "LIST", tmp_path / "modules.txt")
    modules.LIST.write_text("# why\nberth/gone.py  # hot\n")
    with pytest.raises(ValueError, match=r"modules\.txt: 'berth/gone\.py' is no module of Berth"):
        modules.modules(ROOT)


def test_what_is_not_compiled_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = modules.modules(ROOT)
    for module in listed:
        (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / module).touch()
        (tmp_path / module).with_suffix(".cpython-311-x86_64-linux-gnu.so").touch()
    assert main(str(tmp_path)) == 0
    (tmp_path / listed[0]).with_suffix(".cpython-311-x86_64-linux-gnu.so").unlink()
    assert main(str(tmp_path)) == 1
    assert str(tmp_path / listed[0]) in capsys.readouterr().out


def test_a_clone_needs_no_compiler() -> None:
    """What the build requires by default is the two packages of hatch; Cython and setuptools come with COMPILE=1."""
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert [re.split(r"[<>=]", one)[0] for one in required] == ["hatchling", "hatch-vcs"]


def test_the_form_is_that_of_the_modules_that_run() -> None:
    compiled = not str(frame_template.__file__).endswith(".py")
    assert compiled is build_form.COMPILED
    assert build_form.VERSION_AND_FORM.endswith("(compiled)" if compiled else "(interpreted)")


def test_an_argument_that_is_json_is_an_exact_dict_in_the_compiled_form() -> None:
    """As parsers make it: the compiler then looks fields up without a call. An engine's answer that has something else
    there is a failure in either form.
    """
    other = UserDict[str, object](finish_reason="stop", message={"content": "text"})
    check_types(dict(other))
    if build_form.COMPILED:
        with pytest.raises(TypeError, match="expected dict"):
            check_types(other)  # type: ignore[arg-type] # that is the point
    else:
        check_types(other)  # type: ignore[arg-type] # as above

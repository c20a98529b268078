"""Environment variables in source text."""

import zipfile
from pathlib import Path

import pytest

from etc.tools.contract.variables import File, installed, occurrences, packed


def file(path: str, text: str) -> File:
    return File(path=path, read=text.encode)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ('home = os.environ["A_HOME"]', True),
        ("os.getenv('A_HOME', x)", True),
        ('"A_HOME": lambda: 1,', True),
        ("    A_HOME = EnvBool(False)", True),
        ("A_HOME: str = x", True),
        ("# os.environ['A_HOME']", False),
        ("x = 'the variable A_HOME'", False),
        ("os.environ['A_HOME_2']", False),
        ("print(A_HOME)", False),
    ],
)
def test_variable_counts_if_read_or_declared(text: str, counts: bool) -> None:
    found = occurrences(["A_HOME"], [file("a/envs.py", text)])

    assert found == {"A_HOME": ("a.envs",) if counts else ()}


def test_each_package_is_named_once_by_its_best_module() -> None:
    files = [
        file("a/deep/er.py", "environ['X']"),
        file("a/first.py", "names = ['X']"),
        file("a/second/__init__.py", "environ.get(\n    'X',\n)"),
        file("b/__init__.py", "X = EnvStr('')"),
        file("c.py", "nothing"),
    ]

    assert occurrences(["X", "Y"], files) == {"X": ("a.second", "b"), "Y": ()}


def test_searches_compiled_libraries(tmp_path: Path) -> None:
    for name, data in {"openai_harmony/harmony.abi3.so": b"\0RS_CACHE\0", "torch/libx.so": b"RS_CACHE"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(data)

    found = occurrences(["RS_CACHE"], installed(tmp_path, ["openai_harmony", "torch"]))

    assert found == {"RS_CACHE": ("openai_harmony.harmony",)}


def test_searches_only_the_requested_packages(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as wheel:
        for name in ("a/envs.py", "a/data.txt", "a_more/envs.py", "other/envs.py"):
            wheel.writestr(name, "environ['X']")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/c.py").write_text("environ['X']")

    files = [*packed(tmp_path, ["a", "b"]), *installed(tmp_path, ["a", "b"])]

    assert [found.path for found in files] == ["a/envs.py", "b/c.py"]
    assert occurrences(["X"], files) == {"X": ("a.envs", "b.c")}

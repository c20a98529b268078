"""etc/tools/setup/uv.sh and project.sh in a clone of their own, with a fake Python that lacks things."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
FAKE_PYTHON = r"""#!/bin/sh
case "$*" in
-c*) [ -z "$FAKE_OLD" ] && echo "$0" ;;
"-m venv"*) [ -z "$FAKE_NO_VENV" ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip --version") [ -z "$FAKE_NO_PIP" ] ;;
"-m pip config"*) echo "$FAKE_PIP_INDEX" ;;
"-m pip install"*) [ -z "$FAKE_NO_INDEX" ] && mkdir -p "$FAKE_CLONE/.tools/uv/bin" &&
  echo "$*" >>"$FAKE_CLONE/log" && cp "$FAKE_CLONE/uv" "$FAKE_CLONE/.tools/uv/bin/uv" ;;
esac
"""
FAKE_UV = r"""#!/bin/sh
[ "$1" = --version ] && echo "uv 0.13.8 (fake)" && exit
echo "uv $* index=$UV_DEFAULT_INDEX downloads=$UV_PYTHON_DOWNLOADS" >>"$FAKE_CLONE/log"
[ "$1" = venv ] && mkdir -p .venv/bin && cp "$UV_PYTHON" .venv/bin/python
exit 0
"""


class Clone:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "etc").mkdir(parents=True)
        shutil.copytree(
            ROOT / "etc/tools/setup", folder / "etc/tools/setup", ignore=shutil.ignore_patterns("*.py", "__pycache__")
        )
        for name, text in {"uv": FAKE_UV, "python": FAKE_PYTHON}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "pyproject.toml").write_text("")
        (folder / "uv.lock").write_text("")

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
        environ = {**kept, "PYTHON": str(self.folder / "python"), "FAKE_CLONE": str(self.folder), **variables}
        command = [str(self.folder / "etc/tools/setup" / script), *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "my clone")


@pytest.mark.parametrize(
    ("lacking", "advice"),
    [
        ({"FAKE_OLD": "1"}, "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it"),
        ({"FAKE_NO_VENV": "1", "FAKE_NO_PIP": "1"}, "apt-get install python3-venv"),
        ({"FAKE_NO_INDEX": "1"}, "PIP_INDEX_URL=https://"),
    ],
)
def test_reports_missing_requirements_with_the_next_step(clone: Clone, lacking: dict[str, str], advice: str) -> None:
    ended = clone.run("project.sh", **lacking)
    assert ended.returncode == 1
    assert advice in ended.stderr
    assert not (clone.folder / ".venv/.installed").exists()


def test_installs_uv_once(clone: Clone) -> None:
    assert [clone.run("uv.sh", "cache", "dir").returncode for _ in range(2)] == [0, 0]
    assert len([line for line in clone.log() if "pip install" in line]) == 1
    assert len([line for line in clone.log() if line.startswith("uv cache dir")]) == 2


def test_installs_uv_with_pip_only(clone: Clone) -> None:
    assert clone.run("uv.sh", "cache", "dir", FAKE_NO_VENV="1").returncode == 0
    assert "--target" in clone.log()[0]


@pytest.mark.parametrize(
    ("variables", "index"),
    [
        ({}, ""),
        ({"FAKE_PIP_INDEX": "https://of.pip.conf/simple"}, "https://of.pip.conf/simple"),
        ({"FAKE_PIP_INDEX": "https://of.pip.conf/simple", "PIP_INDEX_URL": "https://of.pip/"}, "https://of.pip/"),
        ({"PIP_INDEX_URL": "https://of.pip/", "UV_DEFAULT_INDEX": "https://of.uv/"}, "https://of.uv/"),
    ],
)
def test_uv_uses_pips_index_and_downloads_no_python(clone: Clone, variables: dict[str, str], index: str) -> None:
    clone.run("uv.sh", "cache", "dir", **variables)
    assert clone.log()[-1] == f"uv cache dir index={index} downloads=never"


def test_installs_the_project_once_from_its_lock(clone: Clone) -> None:
    for _ in range(2):
        assert clone.run("project.sh").returncode == 0
    steps = [line.split()[1:3] for line in clone.log() if line.startswith("uv ")]
    assert steps == [["export", "--quiet"], ["venv", "--quiet"], ["pip", "install"], ["pip", "install"]]
    assert any("--require-hashes" in line for line in clone.log())


@pytest.mark.parametrize("file", ["uv.lock", "pyproject.toml"])
def test_reinstalls_the_project_after_a_change(clone: Clone, file: str) -> None:
    clone.run("project.sh")
    count = len(clone.log())
    (clone.folder / file).write_text("changed")
    clone.run("project.sh")
    assert len(clone.log()) > count


def test_reinstalls_the_project_after_a_move(clone: Clone) -> None:
    clone.run("project.sh")
    (clone.folder / ".venv/old").touch()
    moved = clone.folder.rename(clone.folder.with_name("moved"))
    clone.folder = moved
    count = len(clone.log())
    assert clone.run("project.sh").returncode == 0
    assert len(clone.log()) > count

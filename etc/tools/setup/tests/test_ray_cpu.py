"""Ray next to vLLM's CPU build, with a fake uv."""

from pathlib import Path

import pytest

from etc.tools.setup.progress import SetupError
from etc.tools.setup.ray_cpu import install as ray
from etc.tools.setup.ray_cpu.install import ADDED, LOCK, install, is_installed, locked, main

FAKE_UV = """#!/bin/sh
echo "uv $*" >>{log}
[ "$1" = venv ] || exit {code}
for target; do :; done
mkdir -p "$target/bin" "$target/lib/python3.11/site-packages/msgpack"
"""


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """VLLM's environment."""
    folder = tmp_path / "real"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/vllm").write_text("#!/elsewhere/bin/python\nmain()\n")
    for name in ("vllm", "msgpack"):
        (folder / "lib/python3.11/site-packages" / name).mkdir(parents=True)
    (folder / ".installed").write_text("vLLM 1")
    return folder


def uv(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> Path:
    """Its log."""
    program, log = folder / "uv", folder / "log"
    program.write_text(FAKE_UV.format(log=log, code=code))
    program.chmod(0o755)
    monkeypatch.setattr(ray, "UV", program)
    return log


def test_adds_ray_to_what_is_there_and_changes_nothing_of_it(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, home = uv(tmp_path, monkeypatch), tmp_path / "home"
    install(home, real)
    install(home, real)
    assert [line.split()[1] for line in log.read_text().splitlines()] == ["venv", "pip"]
    packages = home / "vllm/lib/python3.11/site-packages"
    assert (packages / "vllm").readlink() == real / "lib/python3.11/site-packages/vllm"
    assert not (packages / "msgpack").is_symlink(), "its own"
    assert (packages / "ray_on_cpus.py").exists()
    assert (home / "vllm/bin/vllm").read_text() == f"#!{home}/vllm/bin/python\nmain()\n"
    assert (real / "bin/vllm").read_text().startswith("#!/elsewhere")

    (real / ".installed").write_text("vLLM 2")
    assert not is_installed(home, real), "its links may lead nowhere now"


def test_takes_the_versions_that_the_image_has() -> None:
    found = locked(LOCK.read_text(), ADDED)
    assert [line.partition("==")[0] for line in found.splitlines() if "==" in line] == list(ADDED)
    assert found.count("--hash=sha256:") > len(ADDED)


def test_a_failure_is_an_exit_code_with_its_reason(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uv(tmp_path, monkeypatch, code=7)
    with pytest.raises(SetupError, match="exit code 7"):
        install(tmp_path / "home", real)
    monkeypatch.setattr(ray, "ROOT", tmp_path / "nothing")
    monkeypatch.setattr("sys.argv", ["install", str(tmp_path / "home")])
    assert main() == 1
    assert "setup: " in capsys.readouterr().err

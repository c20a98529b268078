"""What `make run` chooses, prepares and tells."""

import os
from pathlib import Path

import pytest

from etc.tools.setup import run
from etc.tools.setup.progress import SetupError, say
from etc.tools.setup.run import main, models_of, needs_vllm, prepare, status_command, tiny_model, with_defaults


def test_serves_the_tiny_model_without_a_gpu(tmp_path: Path) -> None:
    environ = with_defaults({}, tmp_path, gpu=False)
    (model,) = models_of(environ)
    assert (model.name, model.source) == ("tiny", str(tmp_path / "models/tiny"))
    assert needs_vllm((model,))


def test_serves_a_small_hub_model_with_a_gpu(tmp_path: Path) -> None:
    (model,) = models_of(with_defaults({}, tmp_path, gpu=True))
    assert model.source == "Qwen/Qwen3-0.6B"


def test_writes_yaml_for_paths_the_shorthand_cannot_express(tmp_path: Path) -> None:
    root = tmp_path / 'my "clone" @ home, é'
    (model,) = models_of(with_defaults({}, root, gpu=False))
    assert model.source == str(tiny_model(root))


def test_keeps_user_variables_and_removes_makes(tmp_path: Path) -> None:
    given = {"BERTH_MODELS": "a=b@sim", "BERTH_RUN_DIR": "/run/mine", "HOME": "/home/me"}
    environ = with_defaults({**given, "MAKEFLAGS": "BERTH_API_KEYS=secret", "MAKELEVEL": "1"}, tmp_path, gpu=True)
    assert environ.items() >= given.items()
    assert not {"MAKEFLAGS", "MAKELEVEL"} & environ.keys()


@pytest.mark.parametrize(
    ("environ", "command"),
    [
        ({}, ".venv/bin/berth status"),
        ({"BERTH_PORT": "9000"}, "BERTH_PORT=9000 .venv/bin/berth status"),
        ({"BERTH_RUN_DIR": "/a b"}, "BERTH_RUN_DIR='/a b' .venv/bin/berth status"),
    ],
)
def test_prints_the_status_command(environ: dict[str, str], command: str) -> None:
    assert status_command(environ) == command


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("Qwen/Qwen3-8B", True),
        ("m=Qwen/Qwen3-8B@sglang,vllm", True),
        ("m=Qwen/Qwen3-8B@sglang", False),
        ("m=any@sim", False),
        ("m=http://127.0.0.1:9100/v1", False),
        ("{m: {source: any, engines: [{engine: sim, dialect: vllm}]}}", False),
        ("a=any@sim b=Qwen/Qwen3-8B@vllm", True),
        ("a=@@", False),
    ],
)
def test_installs_vllm_only_for_models_that_use_it(text: str, needed: bool) -> None:
    assert needs_vllm(models_of({"BERTH_MODELS": text})) is needed


class Installed(list[Path]):
    """Stands for install_vllm and notes where to."""

    def __call__(self, home: Path, *, gpu: bool) -> None:
        assert not gpu
        self.append(home)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    installed = Installed()
    monkeypatch.setattr(run, "install_vllm", installed)
    return installed


def test_makes_the_tiny_model_once(tmp_path: Path, installed: Installed) -> None:
    environ = with_defaults({}, tmp_path, gpu=False)
    prepare(environ, tmp_path, gpu=False)
    made = (tiny_model(tmp_path) / "config.json").stat().st_ino
    prepare(environ, tmp_path, gpu=False)
    assert (tiny_model(tmp_path) / "config.json").stat().st_ino == made
    assert installed == [tmp_path / ".engines"] * 2


def test_prepares_nothing_for_other_engines(tmp_path: Path, installed: Installed) -> None:
    prepare(with_defaults({"BERTH_MODELS": "a=b@sim"}, tmp_path, gpu=False), tmp_path, gpu=False)
    assert not installed
    assert not list(tmp_path.iterdir())


def test_outside_run_directory_is_private(tmp_path: Path, installed: Installed) -> None:
    root = tmp_path / "deep" / ("x" * 90)
    environ = with_defaults({"BERTH_MODELS": "a=b@sim", "XDG_RUNTIME_DIR": str(tmp_path)}, root, gpu=False)
    prepare(environ, root, gpu=False)
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not installed


def test_rejects_a_run_directory_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 424242)
    environ = with_defaults(
        {"BERTH_MODELS": "a=b@sim", "XDG_RUNTIME_DIR": str(tmp_path)}, Path("/" + "x" * 90), gpu=False
    )
    with pytest.raises(SetupError, match="BERTH_RUN_DIR"):
        prepare(environ, tmp_path, gpu=False)


def test_main_prepares_and_execs(
    installed: Installed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[str] = []

    def run_in_foreground(argv: list[str], _environ: dict[str, str]) -> int:
        started.extend(argv)
        return 7

    monkeypatch.setattr(run, "run_in_foreground", run_in_foreground)
    monkeypatch.setenv("BERTH_MODELS", "a=b@sim")
    assert main() == 7
    assert started[1:] == ["-m", "berth", "boot"]
    assert "a=b@sim" in capsys.readouterr().out
    assert not installed


def test_main_reports_missing_requirements(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_home: Path, *, gpu: bool) -> None:
        raise SetupError(f"no room, gpu {gpu}")

    monkeypatch.setattr(run, "install_vllm", fail)
    monkeypatch.setattr(run, "has_gpu", lambda: False)
    monkeypatch.setenv("BERTH_MODELS", "Qwen/Qwen3-8B")
    assert main() == 1
    assert "setup: no room, gpu False" in capsys.readouterr().err


def test_phases_print_the_elapsed_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("time.time", lambda: 1012.5)
    monkeypatch.setenv("SETUP_STARTED", "1000")
    say("there")
    monkeypatch.delenv("SETUP_STARTED")
    say("here")
    assert capsys.readouterr().out == "[ 12s] there\n[  0s] here\n"

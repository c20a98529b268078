"""The command line: output and exit codes of the subcommands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from berth.build_form import VERSION_AND_FORM
from berth.cli.main import COMMANDS, main
from berth.plan import RunPaths
from tests.control.test_status import READY, write


def exit_code(arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Unsets all variables of Berth except the run directory, and returns that."""
    for name in [name for name in os.environ if name.startswith("BERTH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BERTH_RUN_DIR", str(tmp_path))
    return tmp_path


def test_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--version"]) == 0
    assert capsys.readouterr().out == f"berth {VERSION_AND_FORM}\n"


def test_help_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^    {command}\s", text, re.MULTILINE) for command in [*COMMANDS, "sim"])


def test_rejects_an_unknown_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["serve"]) == 2
    assert "invalid choice: 'serve'" in capsys.readouterr().err


def test_boots_by_default(only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert only.is_dir()
    assert exit_code([]) == 78
    assert capsys.readouterr().err.startswith("berth boot: BERTH_MODELS: not set")


def test_prints_an_error_with_its_exit_code(only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["status"]) == 69
    assert f"berth status: {str(only / 'plan.json')!r} cannot be read: No such file" in capsys.readouterr().err


def test_prints_the_status(only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(only, READY)
    assert exit_code(["status"]) == 0
    assert "+ chat-vllm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["plan"], "m-sim"),
        (["config"], "BERTH_MODELS  [environment]  m=any@sim\n"),
        (["env"], "# --- Models ---\n"),
        (["env", "--markdown"], "| `BERTH_MODELS`"),
        (["route", "--explain", "--model", "m"], "No rule matches: model m, on m-sim\n"),
    ],
)
def test_shows_what_would_be(
    only: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], shown: str
) -> None:
    monkeypatch.setenv("BERTH_MODELS", "m=any@sim")
    monkeypatch.setenv("BERTH_DATA", str(only / "data"))
    assert exit_code(arguments) == 0
    assert shown in capsys.readouterr().out
    assert not (only / "plan.json").exists(), "it is only shown"


def test_doctor_says_what_is_not_ready_and_how_to_go_further(
    only: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTH_MODELS", "m=any@sim")
    monkeypatch.setenv("BERTH_DATA", str(only / "data"))
    code = exit_code(["doctor", "--json"])
    said = json.loads(capsys.readouterr().out)
    failed = [one for one in said["findings"] if one["level"] == "fail"]
    assert (code, said["ok"]) == (int(bool(failed)), not failed)
    assert all(one["detail"] and one["remedy"] for one in failed)
    assert ("plan", "m-sim (named in BERTH_MODELS)") in [(one["what"], one["detail"]) for one in said["findings"]]


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
)
def test_status_has_colours_where_the_terminal_has(
    only: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    *,
    coloured: bool,
) -> None:
    write(only, READY)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert exit_code(["status"]) == 0
    assert ("\033" in capsys.readouterr().out) is coloured


def test_prints_what_a_client_needs(only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(only, READY)
    assert exit_code(["connect", "curl"]) == 0
    assert "/v1/chat/completions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("fetch", (78, "berth fetch: BERTH_MODELS: not set")),
        ("export", (0, "exported 0 files")),
        ("import", (65, "berth import: the archive is damaged or truncated: empty file")),
    ],
)
def test_model_files_of_nothing(
    only: Path,
    command: str,
    said: tuple[int, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HOME", str(only))
    monkeypatch.setenv("BERTH_DATA", str(only))
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        code = exit_code([command])
    assert code == said[0]
    assert said[1] in capsys.readouterr().err


def test_prints_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["env"]) == 0
    assert "BERTH_MODELS" in capsys.readouterr().out
    assert exit_code(["env", "--markdown"]) == 0
    assert "| `BERTH_PORT` | `8000` |" in capsys.readouterr().out


@pytest.mark.parametrize("program", ["control", "router"])
def test_programs_need_a_plan(only: Path, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([program, "--run-dir", str(only)]) == 69
    assert "plan.json" in capsys.readouterr().err


def test_exec_needs_a_plan(only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["exec", "--run-dir", str(only), "chat"]) != 0
    assert "plan.json" in capsys.readouterr().err


def test_sim_has_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["sim", "--help"]) == 0
    assert "--fault" in capsys.readouterr().out


def test_closed_pipe_is_not_an_error(only: Path) -> None:
    write(only, READY)
    log = RunPaths(run_dir=str(only), data_dir="").replica_log("chat-vllm")
    log.parent.mkdir()
    log.write_text("a line\n" * 100_000)
    shown = subprocess.Popen(
        [sys.executable, "-m", "berth", "logs", "chat-vllm", "-n", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert shown.stdout is not None
    assert shown.stdout.readline()
    shown.stdout.close()
    assert shown.stderr is not None
    with shown.stderr as errors:
        assert errors.read() == b""
    assert shown.wait(10) == 0


def test_ctrl_c_ends_without_a_traceback(only: Path) -> None:
    write(only, READY)
    RunPaths(run_dir=str(only), data_dir="").logs.mkdir()
    log = RunPaths(run_dir=str(only), data_dir="").replica_log("chat-vllm")
    log.write_text("a line\n")
    shown = subprocess.Popen(
        [sys.executable, "-m", "berth", "logs", "-f"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert shown.stdout is not None
    assert b"a line" in shown.stdout.readline()
    shown.send_signal(2)
    with shown.stdout as output:
        assert b"Traceback" not in output.read()
    assert shown.wait(10) in {0, 130}


def test_a_path_without_an_adapter_is_named_as_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["adapters", "chat", "add", "support", str(tmp_path / "nix")])
    said = capsys.readouterr().err
    assert ended.value.code == 78
    assert f"PATH={str(tmp_path / 'nix')!r}: does not exist" in said
    assert "Example: berth adapters chat add" in said
    assert "BERTH_MODELS" not in said

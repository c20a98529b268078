"""What `docker run berth ...` does with its arguments."""

import json

import pytest

from berth import __version__
from berth.boot.config.variables import VARIABLES
from tests.image.container import WITH_MODEL, Container, run_to_end

pytestmark = [pytest.mark.image, pytest.mark.timeout(120)]


def test_serves_without_arguments(berth: Container) -> None:
    assert berth.chat("m").status_code == 200


def test_tini_is_process_1_and_only_its_child_is_above_supervisord(berth: Container) -> None:
    (first,) = [process for process in berth.processes() if process.pid == 1]
    assert first.argv[0].endswith("tini")
    foreground = berth.find("berth.boot.foreground")
    assert foreground.parent == 1
    assert berth.find("supervisor.supervisord").parent == foreground.pid


def test_options_are_passed_to_berth() -> None:
    ended = run_to_end("--version")
    assert (ended.code, ended.stdout) == (0, f"berth {__version__} (compiled)\n")


def test_plan_prints_and_starts_nothing() -> None:
    ended = run_to_end("plan", "--json", models="m=simulated@sim")
    assert ended.code == 0, ended.stderr
    assert [replica["name"] for replica in json.loads(ended.stdout)["replicas"]] == ["m-sim"]


def test_env_documents_every_variable() -> None:
    ended = run_to_end("env")
    assert ended.code == 0
    assert all(variable.name in ended.stdout for variable in VARIABLES)


def test_doctor_passes_in_the_image() -> None:
    ended = run_to_end("doctor", models="m=simulated@sim")
    assert ended.code == 0, ended.stdout
    assert "sglang 0.5.23 in /opt/engines/sglang" in ended.stdout
    assert "trtllm 1.2.1 in /opt/engines/trtllm" in ended.stdout


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["plan", "--no-such-option"], 2, "--no-such-option"),
        (["no-such-program"], 127, "no-such-program"),
        (["status"], 69, "Start Berth"),
    ],
)
def test_invalid_command_exits_with_its_code_and_a_message(command: list[str], code: int, words: str) -> None:
    ended = run_to_end(*command)
    assert ended.code == code
    assert words in ended.stderr


def test_runs_other_commands_unchanged() -> None:
    ended = run_to_end("bash", "-c", "echo $0 $1; exit 7", "zero", "first")
    assert (ended.code, ended.stdout) == (7, "zero first\n")


def test_plans_a_local_model_before_serving_it() -> None:
    ended = run_to_end("plan", models="tiny=/models/tiny@sim", options=WITH_MODEL)
    assert ended.code == 0, ended.stderr

"""What people read about the variables agrees with the table."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.boot.config.reference import command_lines, config_text, env_text, markdown_table
from berth.boot.config.settings import load
from berth.boot.config.variables import VARIABLES
from berth.errors import ConfigError, MachineError
from berth.plan import Launch, Plan, Replica
from tests.fakes.plans import make_plan, make_replica

MODELS = {"BERTH_MODELS": "x/y"}


def env_file(text: str) -> dict[str, str]:
    """As docker reads it: one variable a line, `#` begins a comment."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def uncommented(text: str) -> dict[str, str]:
    return env_file(re.sub(r"^#(?=[A-Z_]+=)", "", text, flags=re.MULTILINE))


def plan(*replicas: Replica) -> Plan:
    return make_plan("/run/berth", *replicas)


def test_env_text_names_every_variable_and_sets_none() -> None:
    text = env_text()
    assert env_file(text) == {}
    assert list(uncommented(text)) == [var.name for var in VARIABLES]
    for var in VARIABLES:
        assert not var.from_file or var.file_name in text


def test_env_text_shows_the_defaults() -> None:
    environ = uncommented(env_text())
    without_default = {
        var.name for var in VARIABLES if var.default is None and not var.required
    }  # an example stands there
    given = {name: text for name, text in environ.items() if name not in without_default}
    assert load(given, cpus=1) == load({"BERTH_MODELS": environ["BERTH_MODELS"]}, cpus=1)


def test_env_text_sets_active_variables_only() -> None:
    text = env_text(active=("BERTH_MODELS",))
    assert env_file(text) == {"BERTH_MODELS": "Qwen/Qwen3-8B"}
    assert uncommented(text) == uncommented(env_text())


def test_env_text_lines_are_short() -> None:
    assert max(len(line) for line in env_text().splitlines()) <= 120


def test_the_table_has_a_row_for_every_variable() -> None:
    rows = markdown_table().splitlines()
    assert len(rows) == len(VARIABLES) + 2
    for var, row in zip(VARIABLES, rows[2:], strict=True):
        cells = re.split(r"(?<!\\)\|", row)
        assert len(cells) == 6, row
        assert f"`{var.name}`" in cells[1]
        assert var.default is None or f"`{var.default}`" in cells[2]
        assert var.description in cells[4]


def test_config_shows_settings_origins_and_command_lines() -> None:
    launch = Launch(
        argv=("vllm", "serve", "x/y", "--hf-token", "s3cret", "--api_key=s3cret", "a b"), env={"A_TOKEN": "s3cret"}
    )
    text = config_text(
        {**MODELS, "BERTH_PORT": "9000"},
        lambda: plan(make_replica("m-vllm", launch=launch), make_replica("m-remote", launch=None)),
    )
    assert "BERTH_PORT  [environment]  9000\n" in text
    assert "BERTH_HOST  [default]  0.0.0.0\n" in text
    assert "BERTH_ADMIN_KEY  [default]  (not set)\n" in text
    assert "m-vllm:\n    A_TOKEN='***'\n    vllm serve x/y --hf-token '***' '--api_key=***' 'a b'\n" in text
    assert "m-remote: attached to http://127.0.0.1:21000" in text
    assert "s3cret" not in text


def test_config_indents_long_values_and_names_their_file(tmp_path: Path) -> None:
    path = tmp_path / "models"
    path.write_text("a:\n  source: x/y\n")
    text = config_text({"BERTH_MODELS_FILE": str(path)}, plan)
    assert text.startswith(f"BERTH_MODELS  [file {path}]  \n    a:\n      source: x/y\n")


def fail(error: Exception) -> Callable[[], Plan]:
    def make() -> Plan:
        raise error

    return make


def test_config_without_a_plan_says_why() -> None:
    text = config_text(MODELS, fail(MachineError("no engine is installed")))
    assert text.endswith("No engine can be started with this:\n  no engine is installed")


def test_config_rejects_invalid_environment() -> None:
    with pytest.raises(ConfigError, match="BERTH_PORT"):
        config_text({**MODELS, "BERTH_PORT": "x"}, plan)


def test_command_lines_mask_secrets() -> None:
    launch = Launch(argv=("serve", "--api-key", "abc", "--port", "1"), env={"HF_TOKEN": "abc", "MODE": "a b"})

    lines = command_lines(make_replica("chat-vllm", launch=launch, port=1))

    assert lines == [
        "chat-vllm:",
        "    HF_TOKEN='***'",
        "    MODE='a b'",
        "    serve --api-key '***' --port 1",
    ]

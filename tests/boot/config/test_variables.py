"""The table of variables: completeness, and what its parsers accept."""

import dataclasses
import os
from typing import Any

import pytest

from berth.boot.config.parsers import AUTO_WORKERS
from berth.boot.config.settings import Settings
from berth.boot.config.variables import VARIABLES, EnvVar
from berth.errors import Problem
from berth.plan import EngineName
from tests.fakes.api_keys import api_keys

BY_NAME = {var.name: var for var in VARIABLES}
EACH = pytest.mark.parametrize("var", VARIABLES, ids=lambda var: var.name)


def test_every_field_of_settings_has_one_variable() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)} - {"keys_file"}  # where another one comes from
    assert sorted(var.field for var in VARIABLES) == sorted(fields)
    assert len(BY_NAME) == len(VARIABLES)


@EACH
def test_default_is_valid_and_equals_that_of_settings(var: EnvVar) -> None:
    field = next(field for field in dataclasses.fields(Settings) if field.name == var.field)
    if var.name == "BERTH_WORKERS":
        assert var.parse(var.default or "") == AUTO_WORKERS
    elif var.default is not None:
        assert var.parse(var.default) == field.default
    elif not var.required:
        assert not field.default


@EACH
def test_example_is_valid(var: EnvVar) -> None:
    var.parse(var.example)  # passes: no exception


@EACH
def test_texts_suit_messages_and_tables(var: EnvVar) -> None:
    problem = Problem(variable=var.name, value="x", reason="r", allowed=var.allowed, example=var.example)
    assert "\n" not in str(problem)
    assert not var.allowed.endswith(".")
    assert var.description.endswith(".")
    assert var.from_file == (var.secret or var.name in {"BERTH_MODELS", "BERTH_ROUTES"})


def test_variables_of_a_group_stand_together() -> None:
    groups = [var.group for var in VARIABLES]
    assert groups == sorted(groups, key=groups.index)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("BERTH_ENGINES", "sglang vllm", (EngineName.SGLANG, EngineName.VLLM)),
        ("BERTH_API_KEYS", "a,b a\nc", api_keys("a", "b", "c")),
        ("BERTH_WORKERS", "3", 3),
        ("BERTH_PORT", "65535", 65535),
        ("BERTH_RUN_DIR", "/tmp/x/../berth 1", "/tmp/berth 1"),  # noqa: S108 - nothing is written there
        ("BERTH_DRAIN_TIMEOUT", "0", 0.0),
        ("BERTH_QUEUE_SIZE", "0", 0),
        ("BERTH_AFFINITY", "off", False),
        ("BERTH_REQUEST_LOG", "1", True),
        ("BERTH_METRICS_KEY_LABELS", "0", False),
    ],
)
def test_reads_values(name: str, text: str, value: Any) -> None:
    assert BY_NAME[name].parse(text) == value


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("BERTH_ENGINES", "vllm,vlm", "unknown engine 'vlm' .did you mean vllm"),
        ("BERTH_ENGINES", "vllm vllm", "duplicate engine"),
        ("BERTH_ENGINES", ",", "no engine given"),
        ("BERTH_ENGINES", "sim", "never chosen"),
        ("BERTH_API_KEYS", ",", "no key given"),
        ("BERTH_API_KEYS", "schlüssel", "non-ASCII"),
        ("BERTH_WORKERS", "0", "out of range"),
        ("BERTH_WORKERS", "many", "not a whole number"),
        ("BERTH_PORT", "0", "out of range"),
        ("BERTH_PORT", "65536", "out of range"),
        ("BERTH_PORT", "tcp://10.0.0.1:8000", "Kubernetes"),
        ("BERTH_RUN_DIR", "/a;b", "supervisord's configuration"),
        ("BERTH_RUN_DIR", '/a"b', "supervisord's configuration"),
        ("BERTH_RUN_DIR", "/a\nb", "control characters"),
        ("BERTH_QUEUE_TIMEOUT", "0", "must be greater than 0"),
        ("BERTH_GPU_MEMORY_FRACTION", "90", "out of range"),
        ("BERTH_LOG_LEVEL", "trace", "unknown value"),
    ],
)
def test_rejects_values_with_a_reason(name: str, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        BY_NAME[name].parse(text)


def test_rejects_run_directory_too_long_for_the_socket() -> None:
    longest = "/" + "é" * 41  # 83 bytes; supervisord binds <run_dir>/supervisor.sock.<pid> first
    assert len(os.fsencode(f"{longest}/supervisor.sock.4194304")) == 107
    assert BY_NAME["BERTH_RUN_DIR"].parse(longest) == longest
    with pytest.raises(ValueError, match="1 bytes too long"):
        BY_NAME["BERTH_RUN_DIR"].parse(longest + "x")

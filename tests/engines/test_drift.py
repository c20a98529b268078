"""Every command line that the engines write is read by an argument parser rebuilt from the engine's own options."""

import argparse
import itertools
import json
from typing import Any, NoReturn

import pytest

from berth.engines.base import Engine, LaunchOrder
from berth.engines.parsers import known_names
from berth.engines.registry import ENGINES
from berth.plan import EngineName, Task
from tests.fakes.orders import estimate, launch_order
from tests.fakes.recordings import FIXTURES

TABLES = {
    EngineName.VLLM: "vllm/vllm_serve_cli_0.32.0.json",
    EngineName.SGLANG: "sglang/flags_0.5.23.json",
    EngineName.TRTLLM: "trtllm/flags_1.2.1.json",
}
TYPES = {"int": int, "float": float, "human_readable_int": int, "human_readable_int_or_auto": int}
HERMES = "{% if tools %}<tool_call>{'name': ..., 'arguments': ...}</tool_call>{% endif %}"
TEMPLATES = {
    "none": (None, None),
    "hermes": ("llama", HERMES),
    "qwen3": ("qwen3", HERMES + "<think>"),
    "qwen3-coder": ("qwen3_moe", "<tool_call><function=name>"),
    "mistral": ("mistral", "[TOOL_CALLS][THINK]"),
    "llama": ("llama", "<|python_tag|>"),
    "gpt-oss": ("gpt_oss", ""),
    "deepseek": ("deepseek_v3", "<｜tool▁call▁begin｜>```json<｜Assistant｜></think>"),  # noqa: RUF001 - as the models spell it
}
EXTRAS: dict[EngineName, tuple[str, ...]] = {
    EngineName.VLLM: ("--enable-prefix-caching", "--max-num-seqs", "64"),
    EngineName.SGLANG: ("--schedule-policy", "lpm"),
    EngineName.TRTLLM: ("--max_batch_size", "64"),
}


class StrictParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise AssertionError(message)


def option_table(engine: EngineName) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = json.loads((FIXTURES / TABLES[engine]).read_text())
    return table


def argument_parser(engine: EngineName) -> StrictParser:
    parser = StrictParser(allow_abbrev=False)
    for option in option_table(engine):
        if option["nargs"] == 0:
            parser.add_argument(*option["flags"], dest=option["dest"], action="store_true")
            continue
        names = option["flags"] or [option["dest"]]
        keywords = {"dest": option["dest"], "required": option["required"]} if option["flags"] else {}
        parser.add_argument(
            *names,
            nargs=option["nargs"],
            choices=option["choices"],
            type=TYPES.get(option["type"] or "", str),
            **keywords,
        )
    return parser


PARSERS = {engine: argument_parser(engine) for engine in TABLES}


def matrix() -> list[Any]:
    """Engine, number of GPUs, task, offline or not, share of the GPU."""
    return [
        pytest.param(case, id="-".join(str(part) for part in case))
        for case in itertools.product(TABLES, (0, 1, 2, 4), Task, (False, True), (None, 0.9, 0.45))
        if case[0] is not EngineName.TRTLLM or (case[1] and case[2] is Task.GENERATE)
    ]


def parsed(engine: EngineName, order: LaunchOrder) -> argparse.Namespace:
    argv = ENGINES[engine].launch(order).argv
    assert argv[1] == "serve"
    return PARSERS[engine].parse_args(argv[2:])


@pytest.mark.parametrize("case", matrix())
def test_the_engine_accepts_its_command_line(case: tuple[EngineName, int, Task, bool, float | None]) -> None:
    engine, gpus, task, offline, fraction = case
    order = launch_order(
        gpus=gpus,
        task=task,
        offline=offline,
        memory_fraction=fraction,
        memory=estimate() if fraction else None,
        revision="main" if offline else None,
        dtype="bfloat16",
        extra_args=EXTRAS[engine] if offline else (),
    )

    arguments = parsed(engine, order)

    assert arguments.host == "127.0.0.1"
    assert arguments.port == 21001


@pytest.mark.parametrize("engine", TABLES)
@pytest.mark.parametrize(("model_type", "template"), TEMPLATES.values(), ids=TEMPLATES)
def test_the_engine_accepts_the_parsers(engine: EngineName, model_type: str | None, template: str | None) -> None:
    parsed(engine, launch_order(model_type=model_type, chat_template=template))


def test_the_positional_model_is_not_swallowed() -> None:
    arguments = PARSERS[EngineName.VLLM].parse_args(ENGINES[EngineName.VLLM].launch(launch_order()).argv[2:])

    assert arguments.model_tag == "Qwen/Qwen3-8B"
    assert arguments.served_model_name == ["chat"]


@pytest.mark.parametrize("engine", TABLES)
def test_all_parser_names_exist_in_the_engine(engine: EngineName) -> None:
    choices = {
        flag.replace("_", "-"): set(option["choices"])
        for option in option_table(engine)
        for flag in option["flags"]
        if option["choices"]
    }
    known = known_names(engine)

    assert known.tool
    assert known.reasoning
    tool_flag = "--tool-parser" if engine is EngineName.TRTLLM else "--tool-call-parser"
    assert set(known.tool.split(",")) <= choices[tool_flag]
    assert set(known.reasoning.split(",")) <= choices["--reasoning-parser"]


def test_an_unknown_option_would_be_noticed() -> None:
    with pytest.raises(AssertionError, match="--no-such-option"):
        PARSERS[EngineName.SGLANG].parse_args(["--model-path", "m", "--no-such-option"])


def test_every_engine_has_an_interface() -> None:
    engines: list[Engine] = list(ENGINES.values())

    assert {engine.name for engine in engines} == set(EngineName)

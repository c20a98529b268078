"""An argument parser as data."""

import argparse
import enum
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etc.tools.contract.inside import describe

ROOT = Path(__file__).parents[4]


class Kind(enum.Enum):
    A = "a"
    B = "b"


class DeprecatedAction(argparse.Action):
    """As SGLang's is called."""

    error_message: str | None = None

    def __call__(self, *_: object) -> None:
        """Never called: nothing is parsed."""


class RefusingAction(DeprecatedAction):
    error_message = "use --new"


def or_none(type_: Callable[[str], Any]) -> Callable[[str], Any]:
    def _optional_type(text: str) -> Any:
        return None if text == "None" else type_(text)

    return _optional_type


def described(*flags: str, late_choices: dict[str, list[str]] | None = None, **keywords: Any) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    parser.add_argument(*flags, **keywords)
    (option,) = describe.options(parser, late_choices=late_choices or {})
    return option


def test_describes_everything_that_decides_accepted_values() -> None:
    assert described("--rank", "-r", type=int, choices=(8, 1), default=8, required=True) == {
        "flags": ["--rank", "-r"],
        "dest": "rank",
        "nargs": None,
        "type": "int",
        "choices": [1, 8],
        "required": True,
        "default": 8,
        "deprecated": "",
    }


@pytest.mark.parametrize(
    ("keywords", "field", "value"),
    [
        ({"type": str}, "type", ""),
        ({"type": json.loads}, "type", "loads"),
        ({"type": or_none(int)}, "type", "int or None"),
        ({"type": or_none(or_none(str))}, "type", "str or None"),
        ({"choices": {"b", "a"}}, "choices", ["a", "b"]),
        ({"choices": [Kind.B, Kind.A]}, "choices", ["a", "b"]),
        ({"default": Kind.A}, "default", "a"),
        ({"default": object()}, "default", None),
        ({"default": str(Path.home() / "x")}, "default", None),
        ({"default": argparse.SUPPRESS}, "default", None),
        ({"default": float("inf")}, "default", None),
        ({"action": "store_true"}, "default", None),
        ({"action": "store_false"}, "default", True),
        ({"action": "store_true"}, "nargs", 0),
        ({"help": "[DEPRECATED] use --new"}, "deprecated", "warns"),
        ({"help": "not deprecated"}, "deprecated", ""),
        ({"action": DeprecatedAction}, "deprecated", "warns"),
        ({"action": RefusingAction}, "deprecated", "refused"),
    ],
)
def test_one_field(keywords: dict[str, Any], field: str, value: object) -> None:
    assert described("--it", **keywords)[field] == value


def test_late_checks_count_as_choices() -> None:
    assert described("--tool-parser", late_choices={"tool_parser": ["b", "a"]})["choices"] == ["a", "b"]


def test_hidden_spellings_are_flags() -> None:
    parser = argparse.ArgumentParser()
    action = parser.add_argument("--enable", "--no-enable", action="store_true")
    action.option_strings = ["--enable"]

    assert describe.options(parser, late_choices={})[0]["flags"] == ["--enable", "--no-enable"]


def test_recognizes_vllms_deprecated_options() -> None:
    parser = argparse.ArgumentParser()
    parser._deprecated = {parser.add_argument("--old")}  # type: ignore[attr-defined] # as vLLM's parser has it

    assert describe.options(parser, late_choices={})[0]["deprecated"] == "warns"


SCRIPT = """
import argparse
from etc.tools.contract.inside.describe import exchange, refuse_instead_of_exiting, verdicts
refuse_instead_of_exiting()
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
def parse(words):
    if parser.parse_args(words).port == 1:
        raise ValueError("not that one")
exchange(lambda lines: {"verdicts": verdicts(lines, parse)})
"""


def test_checks_command_lines_in_a_separate_process(tmp_path: Path) -> None:
    questions, answers = tmp_path / "questions", tmp_path / "answers"
    questions.write_text(json.dumps([["--port", "2"], ["--port", "1"], ["--no"]]))

    subprocess.run([sys.executable, "-c", SCRIPT, str(questions), str(answers)], cwd=ROOT, check=True)

    assert json.loads(answers.read_text())["verdicts"] == ["", "not that one", "unrecognized arguments: --no"]

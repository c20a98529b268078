"""Runs in an engine's environment, on Python alone: its parser as data, and its verdict on command lines."""

import argparse
import enum
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

Parse = Callable[[Sequence[str]], object]


class RefusedError(Exception):
    """What the engine's parser says instead of exiting."""


def refuse_instead_of_exiting() -> None:
    def error(self: argparse.ArgumentParser, message: str) -> NoReturn:
        del self
        raise RefusedError(message)

    argparse.ArgumentParser.error = error  # type: ignore[method-assign] # in a process that does nothing else


def options(parser: argparse.ArgumentParser, *, late_choices: Mapping[str, Iterable[str]]) -> list[dict[str, Any]]:
    """`late_choices`: what the engine checks only after parsing, by dest."""
    marked: set[argparse.Action] = getattr(parser, "_deprecated", set())  # vLLM's, before Python 3.13
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]  # noqa: SLF001
    return [_option(action, parser, late_choices, marked=action in marked) for action in actions]


def _option(
    action: argparse.Action, parser: argparse.ArgumentParser, late_choices: Mapping[str, Iterable[str]], *, marked: bool
) -> dict[str, Any]:
    # the parser's own register: it knows old spellings too, which vLLM keeps out of the action and so out of its help
    hidden = [flag for flag, owner in parser._option_string_actions.items() if owner is action]  # noqa: SLF001
    return {
        "flags": list(dict.fromkeys((*action.option_strings, *hidden))),
        "dest": action.dest,
        "nargs": action.nargs,
        "type": type_name(action.type),
        "choices": _choices(late_choices.get(action.dest, action.choices or ())),
        "required": bool(action.required),
        "default": None if action.nargs == 0 and action.default is False else stable(action.default),
        "deprecated": deprecation(action, marked=marked),
    }


def type_name(type_: Any) -> str:
    """VLLM wraps a type so that "None" may be said too: the wrapped one's name counts."""
    cells = [cell.cell_contents for cell in getattr(type_, "__closure__", None) or ()]
    wrapped = next((cell for cell in cells if callable(cell)), None)
    if wrapped is not None:
        return f"{type_name(wrapped).removesuffix(' or None') or 'str'} or None"
    return "" if type_ in (None, str) else str(getattr(type_, "__name__", type_))


def _choices(choices: Iterable[Any]) -> list[Any]:
    plain = {_plain(choice) for choice in choices}
    return sorted(plain, key=lambda choice: (isinstance(choice, str), choice))


def _plain(value: Any) -> Any:
    value = value.value if isinstance(value, enum.Enum) else value
    return value if isinstance(value, int | float) else str(value)


def stable(default: Any) -> Any:
    """None for a default that is an object of the engine's, or a path of this machine."""
    default = default.value if isinstance(default, enum.Enum) else default
    if default is argparse.SUPPRESS:
        return None
    try:
        written = json.dumps(default)
    except TypeError:
        return None
    return None if str(Path.home()) in written or '"/' in written or default == float("inf") else default


def deprecation(action: argparse.Action, *, marked: bool) -> str:
    """SGLang has classes for it, vLLM a set, Python 3.13 an attribute; others only say so in their help."""
    if getattr(action, "error_message", None) is not None:
        return "refused"
    by_class = type(action).__name__.startswith("Deprecated")
    by_help = (action.help or "").lstrip("[( ").lower().startswith("deprecated")
    return "warns" if marked or by_class or by_help or getattr(action, "deprecated", False) else ""


def verdicts(command_lines: Iterable[Sequence[str]], parse: Parse) -> list[str]:
    """One per command line: "" where the engine takes it."""
    return [_verdict(command_line, parse) for command_line in command_lines]


def _verdict(command_line: Sequence[str], parse: Parse) -> str:
    try:
        parse(command_line)
    except (RefusedError, argparse.ArgumentError, ValueError, TypeError) as error:
        return str(error) or type(error).__name__
    return ""


def exchange(answer: Callable[[list[list[str]]], dict[str, Any]]) -> None:
    """The two arguments are files: command lines to judge, and where the answer goes."""
    questions, answers = sys.argv[-2:]
    command_lines: list[list[str]] = json.loads(Path(questions).read_text(encoding="utf-8"))
    Path(answers).write_text(json.dumps(answer(command_lines)), encoding="utf-8")

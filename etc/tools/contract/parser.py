"""An argument parser rebuilt from a snapshot: it takes what the engine's own takes, and refuses the rest."""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from etc.tools.contract.table import Deprecation, Option, Snapshot

HUMAN = re.compile(r"-?\d+(\.\d+)?([kKmMgGtT]i?)?B?|auto")


class RefusedError(Exception):
    """What the parser says about a command line."""


def human_number(text: str) -> str:
    """8k, 8K, 64M, auto: vLLM reads sizes and counts so."""
    if not HUMAN.fullmatch(text):
        raise ValueError(text)
    return text


TYPES: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "loads": json.loads,
    "human_readable_int": human_number,
    "human_readable_int_or_auto": human_number,
}


class SnapshotParser(argparse.ArgumentParser):
    """`words`: all that will ever be read. An option that is not among them can be left out: it makes no difference,
    and one parse of several hundred options takes milliseconds.
    """

    def __init__(self, snapshot: Snapshot, words: Iterable[str] | None = None) -> None:
        super().__init__(prog=snapshot.title, allow_abbrev=False, add_help=False)
        self.options = {flag: option for option in snapshot.options for flag in option.flags}
        flags = None if words is None else {word.partition("=")[0] for word in words}
        for option in snapshot.options:
            if flags is None or option.required or not option.flags or flags & set(option.flags):
                self.add_argument(*(option.flags or [option.dest]), **_keywords(option))

    def error(self, message: str) -> NoReturn:
        raise RefusedError(message)

    def read(self, command_line: Sequence[str]) -> argparse.Namespace:
        """RefusedError where the engine would end at once."""
        for flag in self.flags_in(command_line):
            if self.options[flag].deprecated is Deprecation.REFUSED:
                raise RefusedError(f"{flag} was taken away")
        return self.parse_args(list(command_line))

    def flags_in(self, command_line: Sequence[str]) -> list[str]:
        """Those that the engine knows, as they were written."""
        return [flag for word in command_line if (flag := word.partition("=")[0]) in self.options]


def _keywords(option: Option) -> dict[str, Any]:
    named: dict[str, Any] = {"dest": option.dest, "required": option.required} if option.flags else {}
    if option.nargs == 0:
        return named | {"action": "store_true"}
    return named | {
        "nargs": option.nargs,
        "choices": option.choices or None,
        "type": value_type(option.type),
        "default": None,
    }


def value_type(name: str) -> Callable[[str], Any]:
    """A type that is the engine's own counts as text: only the engine knows what it takes."""
    if name.endswith(" or None"):
        inner = value_type(name.removesuffix(" or None"))
        return lambda text: None if text == "None" else inner(text)
    return TYPES.get(name, str)

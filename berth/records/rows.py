"""A file in the data directory that is one JSON object: a version, and a list of rows."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

LARGEST_FILE: Final = 4 << 20  # a larger one is not Berth's


class Rows(NamedTuple):
    """Not checked yet. `problem`: why the file is ignored."""

    rows: list[object]
    problem: str = ""
    newer: bool = False  # another version wrote it: it must not be replaced


def read_rows(file: Path, field: str, version: int) -> Rows:
    """No rows, and no problem, where there is no file."""
    try:
        with file.open("rb") as opened:
            document = msgspec.json.decode(opened.read(LARGEST_FILE), type=dict[str, Any])
    except FileNotFoundError:
        return Rows([])
    except OSError as error:
        return Rows([], f"{str(file)!r} cannot be read: {error.strerror}")
    except (ValueError, RecursionError):  # also where it is larger
        document = {}
    written, rows = document.get("version"), document.get(field)
    if isinstance(written, int) and written > version:
        return Rows([], f"{str(file)!r} was written by a newer Berth (version {written})", newer=True)
    if written != version or not isinstance(rows, list):
        return Rows([], f"{str(file)!r} is damaged, or not one of Berth's")
    return Rows(rows)

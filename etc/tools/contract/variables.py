"""Where environment variables occur in Python packages, installed or in wheels."""

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Compiled packages that read variables by themselves. Of the others only the Python is searched: it is what tells a
# variable from any other text.
COMPILED = ("openai_harmony",)
READS = re.compile(r"environ|getenv|Env[A-Z]\w*\(")
AROUND = 30  # characters: a call may run over two lines
Place = tuple[bool, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    path: str  # below site-packages
    read: Callable[[], bytes]

    @property
    def module(self) -> str:
        parts = PurePosixPath(self.path).parts
        names = (*parts[:-1], parts[-1].partition(".")[0])
        return ".".join(names[:-1] if names[-1] == "__init__" else names)


def occurrences(names: Iterable[str], files: Iterable[File]) -> dict[str, tuple[str, ...]]:
    """For each name the module of each package that holds it; () for none. Where several do, one that reads the
    variable goes before one that only names it, then the outermost.

    In Python a name counts where it stands in quotes (`environ["NAME"]`) or is declared (`NAME = EnvBool(...)`),
    outside of comments; in a compiled library wherever it stands.
    """
    wanted = sorted(set(names))
    found: dict[str, dict[str, Place]] = {name: {} for name in wanted}
    for file in files:
        for name, reads in _in_file(file, wanted).items():
            place = (not reads, file.module.count("."), file.module)
            package = file.module.partition(".")[0]
            found[name][package] = min(found[name].get(package, place), place)
    return {name: tuple(sorted(module for _, _, module in places.values())) for name, places in found.items()}


def installed(folder: Path, packages: Iterable[str]) -> Iterator[File]:
    """The files of `packages` in a site-packages folder."""
    for package in packages:
        for path in sorted((folder / package).rglob("*")):
            if _counts(name := str(path.relative_to(folder))):
                yield File(path=name, read=path.read_bytes)


def packed(folder: Path, packages: Iterable[str]) -> Iterator[File]:
    """The files of `packages` in the wheels of a folder, which need not be installed for it."""
    prefixes = tuple(f"{package}/" for package in packages)
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(prefixes) and _counts(name):
                    data = archive.read(name)
                    yield File(path=name, read=lambda data=data: data)  # type: ignore[misc] # bound now, read later


def _counts(path: str) -> bool:
    return path.endswith(".py") or (path.endswith(".so") and path.startswith(COMPILED))


def _in_file(file: File, wanted: list[str]) -> dict[str, bool]:
    """The names in it, and for each whether it is read there."""
    data = file.read()
    there = [name for name in wanted if name.encode() in data]
    if not there or not file.path.endswith(".py"):
        return dict.fromkeys(there, True)
    either = "|".join(there)
    pattern = re.compile(rf"""(?m)["']({either})["']|^\s*({either})\s*[:=]""")
    lines = (line for line in data.decode(errors="replace").splitlines() if not line.lstrip().startswith("#"))
    text = "\n".join(lines)
    names: dict[str, bool] = {}
    for match in pattern.finditer(text):
        name = match[1] or match[2]
        around = text[max(0, match.start() - AROUND) : match.end() + AROUND]
        names[name] = names.get(name, False) or bool(READS.search(around))
    return names

"""Stores once what two environments have in common: `same_files.py ENVIRONMENT EARLIER`.

Large files of ENVIRONMENT become links to the same files of EARLIER, which a lower layer of the image holds. There are
three conditions: 1. both have the same release of the package that the file belongs to, so that whatever lies beside
the link's target is the same too; 2. the bytes are the same; 3. it is data, not a program and no Python, since those
look for other files beside the place that they are really in. A library does not: the loader takes $ORIGIN from the
path that it was asked for.
"""

import csv
import filecmp
import os
import sys
from collections.abc import Iterator
from pathlib import Path

LEAST_BYTES = 64 * 1024  # a link costs as much as a small file does
ELF = b"\x7fELF"
PT_INTERP = 3
PYTHON = frozenset({".py", ".pyc", ".pth"})


def shared_files(packages: Path, earlier: Path) -> Iterator[tuple[Path, Path]]:
    """Pairs of files of packages that both environments have in the same release."""
    for info in sorted(packages.glob("*.dist-info")):
        if (earlier / info.name).is_dir():
            for name in recorded(info / "RECORD"):
                yield packages / name, earlier / name


def recorded(record: Path) -> Iterator[str]:
    """The package's files below site-packages."""
    with record.open(newline="", encoding="utf-8") as lines:
        yield from (row[0] for row in csv.reader(lines) if row and not row[0].startswith(("../", "/")))


def is_program(path: Path) -> bool:
    """A script, or an ELF file that names its loader."""
    with path.open("rb") as file:
        head = file.read(64)
        if head[:2] == b"#!":
            return True
        if head[:4] != ELF:
            return False
        table, entry, count = (int.from_bytes(head[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
        file.seek(table)
        headers = file.read(entry * count)
    return any(int.from_bytes(headers[at : at + 4], "little") == PT_INTERP for at in range(0, len(headers), entry))


def may_be_linked(path: Path) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size < LEAST_BYTES:
        return False
    return path.suffix not in PYTHON and not is_program(path)


def link(path: Path, target: Path) -> None:
    """Relative, so that both environments may lie anywhere together."""
    path.unlink()
    path.symlink_to(os.path.relpath(target, path.parent))


def link_same_files(packages: Path, earlier: Path) -> tuple[int, int]:
    """How many files became links, and the bytes that this saves."""
    count = saved = 0
    for path, other in shared_files(packages, earlier):
        if may_be_linked(path) and other.is_file() and filecmp.cmp(path, other, shallow=False):
            count, saved = count + 1, saved + path.stat().st_size
            link(path, other.resolve())
    return count, saved


def site_packages(environment: Path) -> Path:
    (packages,) = environment.glob("lib/python3*/site-packages")
    return packages


if __name__ == "__main__":
    files, freed = link_same_files(site_packages(Path(sys.argv[1])), site_packages(Path(sys.argv[2])))
    print(f"same_files.py: {files} files of {sys.argv[1]} are links to {sys.argv[2]} now, {freed / 1e6:.0f} MB saved")

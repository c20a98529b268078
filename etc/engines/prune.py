"""Takes out of an environment what running its engine never needs: `prune.py ENVIRONMENT`.

There are two cases: 1. folders of tests, unless something outside of them imports them; 2. static libraries, but those
that nvcc links into every kernel. What was taken out is noted in the environment, so that it can fail when a package
that came later imports it.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

STATIC_KEPT = frozenset({"libcudart_static.a", "libcudadevrt.a"})
TEST_FOLDERS = frozenset({"test", "tests"})
KEPT: frozenset[str] = frozenset()  # test packages that a part needs which comes after the one that brings them
IMPORT = re.compile(r"^[ \t]*(?:from|import)[ \t]+(\.*[\w.]*)(?:[ \t]+import[ \t]+\(?([\w, \t]*))?", re.MULTILINE)


class PruneError(Exception):
    """The message names the package and the next step."""


def folders_of_tests(packages: Path) -> list[Path]:
    """The outermost ones, of packages only: a folder of that name at the top may be a package that somebody wants."""
    found = []
    for top, folders, _files in os.walk(packages):
        for name in TEST_FOLDERS.intersection(folders):
            if Path(top) != packages:
                found.append(Path(top, name))
                folders.remove(name)
    return sorted(found)


def imported(packages: Path, source: Path) -> Iterator[str]:
    """Names of modules that a file imports, absolute ones, as `a.b.tests`; for `from a import b` both are given."""
    here = source.relative_to(packages).parent.parts
    for module, names in IMPORT.findall(source.read_text(encoding="utf-8", errors="replace")):
        base = absolute(module, here)
        yield base
        yield from (f"{base}.{name.split()[0]}" for name in names.split(",") if name.strip())


def absolute(module: str, here: tuple[str, ...]) -> str:
    name = module.lstrip(".")
    dots = len(module) - len(name)
    if not dots:
        return name
    return ".".join([*here[: len(here) - dots + 1], *([name] if name else [])])


def imported_tests(packages: Path) -> set[str]:
    """Every test package that is imported from outside of tests, whether it is there or not."""
    used: set[str] = set()
    for top, folders, files in os.walk(packages):
        folders[:] = [name for name in folders if name not in TEST_FOLDERS or Path(top) == packages]
        for source in (Path(top, name) for name in files if name.endswith(".py")):
            if b"test" in source.read_bytes():  # most files do not even hold the word
                used.update(test_packages(imported(packages, source)))
    return used


def test_packages(modules: Iterable[str]) -> Iterator[str]:
    for module in modules:
        words = module.split(".")
        ends = [index for index, word in enumerate(words) if index and word in TEST_FOLDERS]
        if ends:
            yield ".".join(words[: ends[0] + 1])


def prune(packages: Path, note: Path) -> int:
    """The bytes that were taken out. PruneError where something that was taken out before is wanted now."""
    used = imported_tests(packages)
    before = set(note.read_text().split()) if note.exists() else set()
    if missed := sorted(used & before):
        raise PruneError(f"{', '.join(missed)} was taken out and is imported now: name it in KEPT of prune.py")
    folders = {".".join(folder.relative_to(packages).parts): folder for folder in folders_of_tests(packages)}
    unused = {name: folder for name, folder in folders.items() if name not in used | KEPT}
    libraries = [path for path in packages.rglob("*.a") if path.is_file() and path.name not in STATIC_KEPT]
    freed = sum(map(size_of, unused.values())) + sum(library.stat().st_size for library in libraries)
    for folder in unused.values():
        shutil.rmtree(folder)
    for library in libraries:
        library.unlink()
    note.write_text("".join(f"{name}\n" for name in sorted(before | set(unused))))
    return freed


def size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def main(environment: Path) -> int:
    (packages,) = environment.glob("lib/python3*/site-packages")
    try:
        freed = prune(packages, environment / ".pruned")
    except PruneError as error:
        print(f"prune.py: {error}", file=sys.stderr)
        return 1
    print(f"prune.py: {freed / 1e6:.0f} MB taken out of {environment}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

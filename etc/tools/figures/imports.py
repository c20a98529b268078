"""Imports between the parts of a folder: how many parts it has, on how many floors they stand, and how many arrows
there are between them.

A part is a file of the folder, or a folder in it with all that it holds; `__init__.py` is none. An arrow leads from
one part to another that it imports, no matter how often and where in the file. Parts that import no other stand on the
first floor, each other part one above the highest that it imports. Parts in a circle share a floor.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from etc.tools.figures.source import SourceFile

Arrows = Mapping[str, frozenset[str]]


@dataclass(frozen=True, kw_only=True)
class Folder:
    path: str
    rooms: int
    floors: int
    arrows: int
    cycles: tuple[tuple[str, ...], ...]  # the parts of each circle


def folders(files: Sequence[SourceFile]) -> tuple[Folder, ...]:
    """Every folder of at least two parts."""
    modules = {file.module for file in files}
    imports = {file.module: frozenset(_imports(file, modules)) - {file.module} for file in files}
    packages = sorted({file.folder for file in files})
    found = [_folder(path, files, imports) for path in packages]
    return tuple(one for one in found if one.rooms > 1)


def _folder(path: str, files: Sequence[SourceFile], imports: Arrows) -> Folder:
    package = path.replace("/", ".")
    parts = {file.module: part for file in files if (part := _part(file.module, package))}
    arrows: dict[str, set[str]] = {part: set() for part in parts.values()}
    for module, part in parts.items():
        arrows[part] |= {parts[target] for target in imports[module] if target in parts} - {part}
    circles = _circles(arrows)
    return Folder(
        path=path,
        rooms=len(arrows),
        floors=_floors(arrows, circles),
        arrows=sum(map(len, arrows.values())),
        cycles=tuple(circle for circle in circles if len(circle) > 1),
    )


def _part(module: str, package: str) -> str:
    """The direct child of the package in which the module is; "" for the package itself and for strangers."""
    return module[len(package) + 1 :].partition(".")[0] if module.startswith(f"{package}.") else ""


def _imports(file: SourceFile, modules: set[str]) -> Iterator[str]:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else node.module


def _circles(arrows: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """The parts grouped: those that reach each other are in one group."""
    reach = {part: _reachable(part, arrows) for part in arrows}
    groups = {tuple(sorted({part, *(other for other in reach[part] if part in reach[other])})) for part in arrows}
    return sorted(groups)


def _reachable(start: str, arrows: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = set(arrows[start])
    while todo:
        part = todo.pop()
        seen.add(part)
        todo |= arrows[part] - seen
    return seen


def _floors(arrows: Mapping[str, set[str]], circles: Sequence[tuple[str, ...]]) -> int:
    group_of = {part: group for group in circles for part in group}
    heights: dict[tuple[str, ...], int] = {}

    def height(group: tuple[str, ...]) -> int:
        if group not in heights:
            below = {group_of[target] for part in group for target in arrows[part]} - {group}
            heights[group] = 1 + max(map(height, below), default=0)
        return heights[group]

    return max(map(height, circles), default=0)

"""Imports inside a folder: how many parts it has, how deep they stand on each other, and how many edges there are.

A part is a file of the folder, or a subfolder with everything in it; `__init__.py` is not a part. An edge leads from
one part to another that it imports, however often and wherever in the file. The depth is the number of parts on the
longest chain of imports; the parts of a cycle count as one.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from etc.tools.figures.source import SourceFile

Edges = Mapping[str, frozenset[str]]


@dataclass(frozen=True, kw_only=True)
class Folder:
    path: str
    parts: int
    depth: int
    edges: int
    cycles: tuple[tuple[str, ...], ...]  # the parts of each


def folders(files: Sequence[SourceFile]) -> tuple[Folder, ...]:
    """Every folder of at least two parts."""
    modules = {file.module for file in files}
    imports = {file.module: frozenset(_imports(file, modules)) - {file.module} for file in files}
    packages = sorted({file.folder for file in files})
    found = [_folder(path, files, imports) for path in packages]
    return tuple(one for one in found if one.parts > 1)


def _folder(path: str, files: Sequence[SourceFile], imports: Edges) -> Folder:
    package = path.replace("/", ".")
    parts = {file.module: part for file in files if (part := _part(file.module, package))}
    edges: dict[str, set[str]] = {part: set() for part in parts.values()}
    for module, part in parts.items():
        edges[part] |= {parts[target] for target in imports[module] if target in parts} - {part}
    cycles = _cycles(edges)
    return Folder(
        path=path,
        parts=len(edges),
        depth=_depth(edges, cycles),
        edges=sum(map(len, edges.values())),
        cycles=tuple(cycle for cycle in cycles if len(cycle) > 1),
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


def _cycles(edges: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """The parts grouped: those that reach each other are in one group."""
    reach = {part: _reachable(part, edges) for part in edges}
    groups = {tuple(sorted({part, *(other for other in reach[part] if part in reach[other])})) for part in edges}
    return sorted(groups)


def _reachable(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = set(edges[start])
    while todo:
        part = todo.pop()
        seen.add(part)
        todo |= edges[part] - seen
    return seen


def _depth(edges: Mapping[str, set[str]], cycles: Sequence[tuple[str, ...]]) -> int:
    group_of = {part: group for group in cycles for part in group}
    heights: dict[tuple[str, ...], int] = {}

    def height(group: tuple[str, ...]) -> int:
        if group not in heights:
            below = {group_of[target] for part in group for target in edges[part]} - {group}
            heights[group] = 1 + max(map(height, below), default=0)
        return heights[group]

    return max(map(height, cycles), default=0)

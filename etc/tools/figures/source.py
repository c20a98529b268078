"""Python source as the other modules of this tool read it: one syntax tree per file, and the functions in it."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function or method. `qualified` is its name with those of its classes and outer functions."""

    path: str
    qualified: str
    node: Definition
    owner: ast.ClassDef | None  # the class of a method

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def place(self) -> str:
        return f"{self.path}:{self.node.lineno}"

    @property
    def lines(self) -> int:
        """From `def` to its last line; decorators do not count."""
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    @property
    def is_private(self) -> bool:
        return self.name.startswith("_") and not self.name.startswith("__")

    @cached_property
    def complexity(self) -> int:
        """1, and 1 for each branch, loop, handler, assertion, further operand of a boolean operator, comprehension
        and condition in one: stricter than mccabe's, which does not look into expressions.
        """
        return 1 + sum(map(_branches, ast.walk(self.node)))


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    path: str  # relative to the folder that holds the package: "berth/router/app.py"
    module: str  # "berth.router.app"; of an __init__.py the package
    text: str
    tree: ast.Module
    functions: tuple[Function, ...]

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


def read_package(package: Path) -> tuple[SourceFile, ...]:
    """All Python files under a package's folder, sorted by path."""
    return tuple(_read(path, package.parent) for path in sorted(package.rglob("*.py")))


def functions_of(files: Sequence[SourceFile]) -> tuple[Function, ...]:
    return tuple(function for file in files for function in file.functions)


def _read(path: Path, root: Path) -> SourceFile:
    text, relative = path.read_text(encoding="utf-8"), path.relative_to(root)
    tree = ast.parse(text, filename=str(path))
    parts = relative.with_suffix("").parts
    return SourceFile(
        path=relative.as_posix(),
        module=".".join(parts[:-1] if parts[-1] == "__init__" else parts),
        text=text,
        tree=tree,
        functions=tuple(_functions(tree, relative.as_posix(), (), None)),
    )


def _functions(node: ast.AST, path: str, outer: tuple[str, ...], owner: ast.ClassDef | None) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DEFINITIONS):
            names = (*outer, child.name)
            yield Function(path=path, qualified=".".join(names), node=child, owner=owner)
            yield from _functions(child, path, names, None)
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, path, (*outer, child.name), child)
        else:
            yield from _functions(child, path, outer, owner)


def _branches(node: ast.AST) -> int:
    match node:
        case ast.BoolOp():
            return len(node.values) - 1
        case ast.comprehension():
            return 1 + len(node.ifs)
        case (
            ast.If()
            | ast.IfExp()
            | ast.For()
            | ast.AsyncFor()
            | ast.While()
            | ast.ExceptHandler()
            | ast.Assert()
            | ast.match_case()
        ):
            return 1
        case _:
            return 0

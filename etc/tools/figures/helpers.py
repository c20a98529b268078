"""Private helpers that are used exactly once: the measure of how finely code is cut up.

A helper is a function or method, nested ones included, whose name starts with a single underscore. It counts when the
file that defines it names it exactly once outside its own definition, as a name (`_read(...)`, `map(_read, rows)`) or
as an attribute (`self._read`), and no other file imports it. Other files' functions of the same name are others: a
private name belongs to its file. Not counted are overrides (a base class in the package defines the name too), whose
callers do not choose them, and functions that nothing names.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from etc.tools.figures.source import Function, SourceFile


@dataclass(frozen=True, kw_only=True)
class Helper:
    function: Function
    use_line: int  # in the same file
    used_by: str  # the qualified name of the function that uses it; "" at the top level of a module or class

    @property
    def text(self) -> str:
        function = self.function
        used_by = self.used_by or "the module itself"
        return (
            f"{function.place}  {function.qualified}  {function.lines} lines, used by {used_by} (line {self.use_line})"
        )


def one_use_helpers(files: Sequence[SourceFile]) -> tuple[Helper, ...]:
    imported, methods, bases = _imported(files), _methods(files), _bases(files)
    return tuple(
        helper
        for file in files
        for helper in _of_file(file)
        if (file.module, helper.function.name) not in imported and not _overrides(helper.function, methods, bases)
    )


def _of_file(file: SourceFile) -> Iterator[Helper]:
    uses: dict[str, list[int]] = defaultdict(list)
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Name):
            uses[node.id].append(node.lineno)
        elif isinstance(node, ast.Attribute):
            uses[node.attr].append(node.end_lineno or node.lineno)
    for function in file.functions:
        if function.is_private:
            outside = [line for line in uses[function.name] if not _spans(function, line)]
            if len(outside) == 1:
                yield Helper(function=function, use_line=outside[0], used_by=_around(file, outside[0]))


def _spans(function: Function, line: int) -> bool:
    return function.node.lineno <= line <= (function.node.end_lineno or function.node.lineno)


def _around(file: SourceFile, line: int) -> str:
    """The innermost function that holds this line."""
    around = [function for function in file.functions if _spans(function, line)]
    return around[-1].qualified if around else ""


def _imported(files: Sequence[SourceFile]) -> set[tuple[str, str]]:
    return {
        (node.module or "", alias.name)
        for file in files
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _methods(files: Sequence[SourceFile]) -> Mapping[str, set[str]]:
    """The methods of each class. Classes of the same name are taken for one."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in files:
        for function in file.functions:
            if function.owner is not None:
                found[function.owner.name].add(function.name)
    return found


def _bases(files: Sequence[SourceFile]) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for file in files:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.ClassDef):
                names = (base.value if isinstance(base, ast.Subscript) else base for base in node.bases)
                found[node.name] |= {ast.unparse(name).rpartition(".")[2] for name in names}
    return found


def _overrides(function: Function, methods: Mapping[str, set[str]], bases: Mapping[str, set[str]]) -> bool:
    """Whether a base class, near or far, has a method of that name too."""
    if function.owner is None:
        return False
    seen: set[str] = set()
    todo = set(bases.get(function.owner.name, ()))
    while todo:
        base = todo.pop()
        if function.name in methods.get(base, ()):
            return True
        seen.add(base)
        todo |= bases.get(base, set()) - seen
    return False

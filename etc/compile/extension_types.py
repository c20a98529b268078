"""Which classes become extension types in the compiled form, so that their attributes are fields of a C structure.

Cython reads that from a `.pxd` beside each module. They are written here, from the source itself: the attributes are
those of `__slots__`, or else those that methods set; where an annotation names another listed class, so does the field.
Arguments that are annotated with a listed class are typed by `etc.compile.build`. The build runs it, so it imports the
standard library only.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

LIST = Path(__file__).parent / "extension_types.txt"
Classes = Mapping[str, frozenset[str]]  # by the path of their module


def listed(root: Path) -> Classes:
    """Reads extension_types.txt. ValueError for a class that is not there."""
    found: dict[str, frozenset[str]] = {}
    for line in LIST.read_text().splitlines():
        if words := line.partition("#")[0].split():
            path, *names = words
            there = {one.name for one in ast.parse((root / path).read_text()).body if isinstance(one, ast.ClassDef)}
            if missing := set(names) - there:
                raise ValueError(f"{LIST.name}: {path} has no class {', '.join(sorted(missing))}")
            found[path] = frozenset(names)
    return found


def declarations(root: Path, path: str, classes: Classes) -> str:
    """The `.pxd` of a module; "" where it neither has nor imports a listed class."""
    tree = ast.parse((root / path).read_text())
    own = classes.get(path, frozenset())
    imported = {
        alias.name: f"from {node.module} cimport {alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
        if alias.name in classes.get(f"{node.module.replace('.', '/')}.py", ()) and alias.asname is None
    }
    known = own | imported.keys()
    parts = [imported[name] for name in sorted(imported)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in own:
            parts += ["", f"cdef class {_with_base(node, known)}:"]
            parts += [f"    cdef public {kind} {name}" for name, kind in _fields(node, known)] or ["    pass"]
    return "\n".join(parts) + "\n" if parts else ""


def _with_base(node: ast.ClassDef, known: Iterable[str]) -> str:
    """ValueError for what no extension type can be."""
    bases = [ast.unparse(base) for base in node.bases]
    if node.decorator_list or node.keywords or len(bases) > 1 or not set(bases) <= set(known):
        raise ValueError(f"{node.name} cannot be an extension type: it has decorators, or a base that is none")
    return f"{node.name}({bases[0]})" if bases else node.name


def _fields(node: ast.ClassDef, known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and type of each attribute."""
    types: dict[str, str] = {}
    for child in node.body:
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name) and child.value is None:
            types[child.target.id] = _type(child.annotation, known)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            _read_method(child, known, types)
    slots = _slots(node)
    for name in types if slots is None else slots:
        yield name, types.get(name, "object")


def _read_method(method: ast.FunctionDef | ast.AsyncFunctionDef, known: Iterable[str], types: dict[str, str]) -> None:
    """Adds the attributes that it sets; the first type of each stays."""
    arguments = {one.arg: one.annotation for one in (*method.args.args, *method.args.kwonlyargs)}
    for node in ast.walk(method):
        match node:
            case ast.AnnAssign(target=ast.Attribute(value=ast.Name(id="self"), attr=name), annotation=annotation):
                types.setdefault(name, _type(annotation, known))
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)], value=ast.Name(id=value)):
                types.setdefault(name, _type(arguments.get(value), known))
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)], value=ast.Call(func=made)):
                types.setdefault(name, _type(made, known))
    for node in ast.walk(method):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                types.setdefault(name, "object")


def _slots(node: ast.ClassDef) -> list[str] | None:
    for child in node.body:
        if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__slots__":
            found = [one for one in ast.walk(child.value) if isinstance(one, ast.Constant)]
            found.sort(key=lambda one: (one.lineno, one.col_offset))
            return [str(one.value) for one in found]
    return None


def _type(annotation: ast.expr | None, known: Iterable[str]) -> str:
    """`object` for all but a listed class, or that or None."""
    if annotation is None:
        return "object"
    text = annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
    name = str(text).removesuffix(" | None")
    return name if name in known else "object"


def write(root: Path, folder: Path, modules: Iterable[str]) -> None:
    """Beside the modules in `folder`, a copy of those in `root`."""
    classes = listed(root)
    for path in modules:
        if text := declarations(root, path, classes):
            (folder / path).with_suffix(".pxd").write_text(text)

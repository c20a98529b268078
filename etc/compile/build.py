"""Compiles Berth's hot modules with Cython: `python -m etc.compile.build ROOT FOLDER` leaves the results in FOLDER.

The build hook runs it in a process of its own, in the environment of the build, which has Cython and setuptools.
Behaviour is that of the source: of all annotations only the classes of extension_types.txt are used as types, and JSON
objects as what parsers make of them, exact dicts (`int` would become a check that a `bool` or an `IntEnum` fails).
"""

import multiprocessing
import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from Cython.Build import cythonize
from Cython.Compiler.ExprNodes import AnnotationNode
from setuptools import Extension, setup

from etc.compile import extension_types
from etc.compile.modules import modules

# nonecheck: an attribute of None is an AttributeError, as in Python, and no crash
DIRECTIVES = {"language_level": "3", "annotation_typing": True, "binding": True, "nonecheck": True}
JSON = frozenset({"Json", "dict[str, Any]"})
OPTIONS = ["-O2", "-fno-semantic-interposition", "-fno-plt", "-g0", "-w"]  # -w: warnings are about generated code


def annotated_type(node: Any, env: Any, assigned_value: Any = None) -> tuple[list[str], Any]:  # noqa: ARG001 - Cython's
    """In place of Cython's own, which would use every annotation: what allows None, and the type; None for no type."""
    words = node.string.value.strip("'\"").split(" | ")
    is_json = words[0] in JSON
    entry: Any = (
        env.lookup("dict" if is_json else words[0]) if words[1:] in ([], ["None"]) and not node.untyped else None
    )
    is_class = entry is not None and entry.is_type and entry.type.is_extension_type and not entry.type.is_builtin_type
    return (["typing.Optional"] if words[1:] else [], entry.type) if is_json or is_class else ([], None)


def compile_modules(root: Path, folder: Path) -> None:
    """Works on a copy: nothing is left in the source."""
    jobs = len(os.sched_getaffinity(0))
    AnnotationNode.analyse_type_annotation = annotated_type
    multiprocessing.set_start_method("fork")  # Cython's processes have that too
    with TemporaryDirectory() as name:
        shutil.copytree(root / "berth", Path(name, "berth"), ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        extension_types.write(root, Path(name), modules(root))
        os.chdir(name)
        extensions = [
            Extension(path.removesuffix(".py").replace("/", "."), [path], extra_compile_args=OPTIONS)
            for path in modules(root)
        ]
        compiled = cythonize(extensions, nthreads=jobs, compiler_directives=DIRECTIVES, quiet=True)
        arguments = ["--quiet", "build_ext", "--build-lib", str(folder), "--parallel", str(jobs)]
        setup(name="berth", packages=[], py_modules=[], ext_modules=compiled, script_args=arguments)


if __name__ == "__main__":
    compile_modules(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())

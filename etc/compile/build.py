"""Compiles Berth's hot modules with mypyc: `python -m etc.compile.build ROOT FOLDER` leaves the results in FOLDER.

The build hook runs it in a process of its own, in the environment of the build, which has mypy, setuptools and Berth's
dependencies, whose types mypyc uses.
"""

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from mypyc.build import mypycify
from setuptools import setup

from etc.compile.modules import LIST, read

# Berth is checked strictly with the locked packages. Here mypy only has to know the types.
CONFIG = """\
[mypy]
explicit_package_bases = true
ignore_missing_imports = true
"""
NO_DEBUG = "0"


def compile_modules(root: Path, folder: Path) -> None:
    """Modules are named by their paths, so the working directory is a copy: nothing is left in the source."""
    libraries = read(root, LIST.read_text())
    with TemporaryDirectory() as name:
        os.chdir(name)
        shutil.copytree(root / "berth", "berth", ignore=shutil.ignore_patterns("__pycache__"))
        Path("mypy.ini").write_text(CONFIG)
        extensions = mypycify(
            ["--config-file", "mypy.ini", *(module for modules in libraries.values() for module in modules)],
            opt_level="2",
            debug_level=NO_DEBUG,
            separate=[(modules, library) for library, modules in libraries.items()],
        )
        jobs = len(libraries)  # each is one large file
        arguments = ["--quiet", "build_ext", "--build-lib", str(folder), "--parallel", str(jobs)]
        setup(name="berth", packages=[], py_modules=[], ext_modules=extensions, script_args=arguments)


if __name__ == "__main__":
    compile_modules(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())

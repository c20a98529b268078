"""Compiles Berth's hot modules with Cython: `python -m etc.compile.build ROOT FOLDER` leaves the results in FOLDER.

The build hook runs it in a process of its own, in the environment of the build, which has Cython and setuptools.
Behaviour is that of the source: annotations are not used as types (`int` would become a check).
"""

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from Cython.Build import cythonize
from setuptools import Extension, setup

from etc.compile.modules import modules

DIRECTIVES = {"language_level": "3", "annotation_typing": False, "binding": True}
OPTIONS = ["-O2", "-fno-semantic-interposition", "-fno-plt", "-g0", "-w"]  # -w: warnings are about generated code


def compile_modules(root: Path, folder: Path) -> None:
    """Works on a copy: nothing is left in the source."""
    jobs = len(os.sched_getaffinity(0))
    with TemporaryDirectory() as name:
        shutil.copytree(root / "berth", Path(name, "berth"), ignore=shutil.ignore_patterns("__pycache__", "*.so"))
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

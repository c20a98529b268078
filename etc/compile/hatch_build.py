"""The build hook of the wheel: with COMPILE=1 its hot modules are compiled, otherwise it is pure Python.

Compiled code is the same source. The source files stay in the wheel with the extension modules, for tracebacks.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILER = ["cython==3.3.1", "setuptools==84.2.1"]


class CompileHook(BuildHookInterface):  # type: ignore[misc] # hatchling is only in the build's environment
    def dependencies(self) -> list[str]:
        return COMPILER if self._wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or not self._wanted():
            return
        self._folder = TemporaryDirectory()  # `finalize` removes it when the wheel is written
        built = Path(self._folder.name)
        subprocess.run([sys.executable, "-m", "etc.compile.build", self.root, built], check=True, cwd=self.root)
        build_data["force_include"] |= {str(path): str(path.relative_to(built)) for path in built.rglob("*.so")}
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - the hook's
        if version != "editable" and self._wanted():
            self._folder.cleanup()

    def _wanted(self) -> bool:
        return os.environ.get("COMPILE", "") not in ("", "0")

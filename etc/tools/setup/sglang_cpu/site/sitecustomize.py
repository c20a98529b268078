"""Python runs this when it starts. torchvision's list of GPU operators does not load beside a torch for the CPU, and
is not needed there: it is taken for empty.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence

EMPTY = "torchvision._meta_registrations"


class Empty(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname == EMPTY else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return types.ModuleType(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing in it."""


sys.meta_path.insert(0, Empty())

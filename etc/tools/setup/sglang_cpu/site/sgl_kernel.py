"""Stands in for SGLang's GPU kernels where there is no GPU: everything can be imported, nothing can be called. And no
memory is pinned, which would need a GPU too: SGLang's LoRA layers ask for it on the CPU as well.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

__version__ = "0.4.10"  # SGLang asks for this one
__path__: list[str] = []  # what makes it a package: SGLang imports parts of it


class Kernel:
    """Whatever name is asked for, here or in a part."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> "Kernel":
        return named(self._name)(name)

    def __call__(self, *_arguments: object, **_named: object) -> Any:
        raise RuntimeError(f"{self._name} needs a GPU: SGLang runs on the CPU here")


class Parts(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes every part that is imported."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        ours = fullname.startswith(f"{__name__}.")
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True) if ours else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        part = types.ModuleType(spec.name)
        part.__dict__["__getattr__"] = named(spec.name)
        return part

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing in it."""


def named(where: str) -> Callable[[str], Kernel]:
    def kernel(name: str) -> Kernel:
        if name.startswith("__"):  # Python asks for many of those, and takes every answer for a yes
            raise AttributeError(name)
        return Kernel(f"{where}.{name}")

    return kernel


def unpinned(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(*arguments: Any, pin_memory: bool = False, **named_ones: Any) -> Any:  # noqa: ARG001 - left out
        return make(*arguments, **named_ones)

    return made


__getattr__ = named(__name__)
sys.meta_path.append(Parts())
if torch := sys.modules.get("torch"):  # SGLang has imported it before
    for maker in ("tensor", "empty", "zeros"):
        setattr(torch, maker, unpinned(getattr(torch, maker)))
    torch.Tensor.pin_memory = lambda tensor, *_device: tensor

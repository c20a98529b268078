"""Runs in vLLM's environment: `python -m etc.tools.contract.inside.vllm cuda|cpu QUESTIONS ANSWERS`.

vLLM's options depend on the platform that it finds. On a machine without a GPU the CUDA platform is put in its place:
a GPU that is said to be there, and empty modules instead of the compiled ones that do not load without CUDA. Neither
is ever called: nothing but the parser is made.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

from etc.tools.contract.inside.describe import exchange, options, refuse_instead_of_exiting, verdicts

CAPABILITY = (9, 0)
MEMORY_BYTES = 80 << 30


class Natives(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty module for each of vLLM's compiled ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("vllm.") or path is None:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        if found is None or not isinstance(found.loader, importlib.machinery.ExtensionFileLoader):
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return types.ModuleType(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing in it."""


def pretend(platform: str) -> None:
    """From here on vLLM takes itself to be on that platform."""
    if platform == "cuda":
        sys.meta_path.insert(0, Natives())
    platforms = importlib.import_module("vllm.platforms")
    module = importlib.import_module(f"vllm.platforms.{platform}")
    platforms._current_platform = module.CpuPlatform() if platform == "cpu" else cuda_platform(module)()  # type: ignore[attr-defined] # noqa: SLF001


def cuda_platform(module: Any) -> type[Any]:
    """VLLM's own, but for what it would ask the driver."""
    capability = importlib.import_module("vllm.platforms.interface").DeviceCapability(*CAPABILITY)
    answers = {
        "get_device_capability": classmethod(lambda _cls, _device_id=0: capability),
        "get_device_name": classmethod(lambda _cls, _device_id=0: "NVIDIA H100 80GB HBM3"),
        "get_device_total_memory": classmethod(lambda _cls, _device_id=0: MEMORY_BYTES),
    }
    return type("PretendedCuda", (module.CudaPlatform,), answers)


def parsers() -> tuple[Any, Any, Any]:
    """`vllm` as the program makes it, its `serve`, and the subcommand, which checks what was parsed."""
    (command,) = importlib.import_module("vllm.entrypoints.cli.serve").cmd_init()
    program = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser(prog="vllm")
    return program, command.subparser_init(program.add_subparsers()), command


def parsers_by_name() -> dict[str, list[str]]:
    """The parsers of answers: checked against these names after the command line has been parsed."""
    tools = importlib.import_module("vllm.tool_parsers").ToolParserManager
    reasoning = importlib.import_module("vllm.reasoning").ReasoningParserManager
    return {
        "tool_call_parser": list(tools.list_registered()),
        "reasoning_parser": list(reasoning.list_registered()),
    }


def answer(command_lines: list[list[str]]) -> dict[str, Any]:
    pretend(sys.argv[1])
    refuse_instead_of_exiting()
    program, serve, command = parsers()

    def parse(command_line: Sequence[str]) -> None:
        command.validate(program.parse_args(["serve", *command_line]))

    return {
        "options": options(serve, late_choices=parsers_by_name()),
        "verdicts": verdicts(command_lines, parse),
    }


if __name__ == "__main__":
    exchange(answer)

"""The scripts that run in an engine's environment, on small packages that have the engines' shape."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]

VLLM = {
    "vllm/__init__.py": "",
    "vllm/platforms/__init__.py": "_current_platform = None",
    "vllm/platforms/interface.py": """
        class DeviceCapability(tuple):
            def __new__(cls, major, minor):
                return super().__new__(cls, (major, minor))
        """,
    "vllm/platforms/cpu.py": """
        class CpuPlatform:
            name = "cpu"
        """,
    "vllm/platforms/cuda.py": """
        import vllm._C_kernels  # does not load without CUDA
        class CudaPlatform:
            name = "cuda"
            @classmethod
            def get_device_capability(cls, device_id=0):
                raise RuntimeError("no driver")
        """,
    "vllm/_C_kernels.abi3.so": "not a library",
    "vllm/entrypoints/__init__.py": "",
    "vllm/entrypoints/cli/__init__.py": "",
    "vllm/entrypoints/cli/serve.py": """
        from vllm import platforms
        class Serve:
            def subparser_init(self, subparsers):
                parser = subparsers.add_parser("serve")
                parser.add_argument("model_tag", nargs="?")
                parser.add_argument("--device", choices=["auto", platforms._current_platform.name])
                parser.add_argument("--tool-call-parser")
                capability = getattr(platforms._current_platform, "get_device_capability", lambda: None)()
                parser.add_argument("--capability", default=capability and capability[0])
                return parser
            def validate(self, arguments):
                if arguments.tool_call_parser == "none":
                    raise TypeError("a parser is needed")
        def cmd_init():
            return [Serve()]
        """,
    "vllm/utils/__init__.py": "",
    "vllm/utils/argparse_utils.py": "from argparse import ArgumentParser as FlexibleArgumentParser",
    "vllm/tool_parsers/__init__.py": """
        class ToolParserManager:
            @classmethod
            def list_registered(cls):
                return ["hermes"]
        """,
    "vllm/reasoning/__init__.py": """
        class ReasoningParserManager:
            @classmethod
            def list_registered(cls):
                return ["qwen3"]
        """,
}
SGLANG = {
    "sglang/__init__.py": "",
    "sglang/srt/__init__.py": "",
    "sglang/srt/utils/__init__.py": "",
    "sglang/srt/server_args.py": """
        class ServerArgs:
            @staticmethod
            def add_cli_args(parser):
                parser.add_argument("--model-path", required=True)
                parser.add_argument("--api-key")
                parser.add_argument("--config")
            @classmethod
            def from_cli_args(cls, arguments):
                if arguments.api_key == "bad":
                    raise ValueError("a bad key")
        """,
    "sglang/srt/utils/server_args_config_parser.py": """
        class ConfigArgumentMerger:
            def __init__(self, parser):
                pass
            def merge_config_with_args(self, words):
                return [word for word in words if word != "merged"]
        """,
}


def ask(tmp_path: Path, package: dict[str, str], lines: list[list[str]], *script: str) -> Any:
    for name, text in package.items():
        path = tmp_path / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line.removeprefix(" " * 8) for line in text.splitlines()))
    questions, answers = tmp_path / "questions.json", tmp_path / "answers.json"
    questions.write_text(json.dumps(lines))
    command = [sys.executable, "-m", *script, str(questions), str(answers)]
    environ = os.environ | {"PYTHONPATH": str(tmp_path / "packages")}
    subprocess.run(command, cwd=ROOT, env=environ, check=True)
    return json.loads(answers.read_text())


def by_dest(answer: Any) -> dict[str, Any]:
    return {option["dest"]: option for option in answer["options"]}


@pytest.mark.parametrize(("platform", "capability"), [("cuda", 9), ("cpu", None)])
def test_vllms_options_depend_on_the_platform(tmp_path: Path, platform: str, capability: int | None) -> None:
    lines = [["m", "--device", platform], ["m", "--device", "tpu"], ["m", "--tool-call-parser", "none"]]

    answer = ask(tmp_path, VLLM, lines, "etc.tools.contract.inside.vllm", platform)

    assert by_dest(answer)["device"]["choices"] == ["auto", platform]
    assert by_dest(answer)["tool_call_parser"]["choices"] == ["hermes"]
    assert by_dest(answer)["capability"]["default"] == capability
    accepted, refused, invalid = answer["verdicts"]
    assert (accepted, invalid) == ("", "a parser is needed")
    assert "invalid choice: 'tpu'" in refused


def test_sglangs_command_lines_are_merged_parsed_and_checked(tmp_path: Path) -> None:
    lines = [["--model-path", "m", "merged"], ["--api-key", "k"], ["--model-path", "m", "--api-key", "bad"]]

    answer = ask(tmp_path, SGLANG, lines, "etc.tools.contract.inside.sglang")

    assert by_dest(answer)["model_path"]["required"]
    assert answer["verdicts"] == ["", "the following arguments are required: --model-path", "a bad key"]

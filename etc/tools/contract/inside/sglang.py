"""Runs in SGLang's environment: `python -m etc.tools.contract.inside.sglang QUESTIONS ANSWERS`.

Its parser needs no GPU.
"""

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

from etc.tools.contract.inside.describe import exchange, options, refuse_instead_of_exiting, verdicts


def answer(command_lines: list[list[str]]) -> dict[str, Any]:
    refuse_instead_of_exiting()
    server_args = importlib.import_module("sglang.srt.server_args").ServerArgs
    merger = importlib.import_module("sglang.srt.utils.server_args_config_parser").ConfigArgumentMerger
    parser = argparse.ArgumentParser(prog="sglang serve")
    server_args.add_cli_args(parser)

    def parse(command_line: Sequence[str]) -> None:
        merged = merger(parser).merge_config_with_args(command_line)
        server_args.from_cli_args(parser.parse_args(merged))

    return {"options": options(parser, late_choices={}), "verdicts": verdicts(command_lines, parse)}


if __name__ == "__main__":
    exchange(answer)

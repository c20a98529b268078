"""Figures of the code base: `python -m etc.tools.figures`, or `make figures FIGURES="--helpers berth/router"`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from etc.tools.figures import cost, forms, instructions, report
from etc.tools.figures.budget import excesses, measured
from etc.tools.figures.census import is_within, take
from etc.tools.figures.helpers import one_use_helpers
from etc.tools.figures.imports import folders
from etc.tools.figures.router_walks import TRANSLATED
from etc.tools.figures.scenes import ROOT, walks_of
from etc.tools.figures.source import read_package
from etc.tools.figures.system_calls import is_available, system_calls
from etc.tools.figures.walk import length

WALKS = {  # name -> the scene that it is from, and what it is
    "idle-period": ("router", "a worker without requests, from one heartbeat to the next"),
    "chat": ("router", "a chat, OpenAI's API, vLLM"),
    "chat-stream": ("router", "the same, streamed: three tokens"),
    "chat-token": ("router", "one token in the middle of a stream"),
    "anthropic": ("router", "the same chat in Anthropic's API"),
    "anthropic-stream": ("router", "the same, streamed: three tokens"),
    "anthropic-token": ("router", "one token in the middle of a stream"),
    **{f"{name}-token": ("router", f"the same in {path}") for name, (path, _, _) in TRANSLATED.items()},
    "plan": ("boot", "berth plan: from BERTH_MODELS to argv, on the CPU"),
    "boot": ("boot", "berth boot until its files are written"),
    "death": ("control", "an engine dies, until the new State is published"),
}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m etc.tools.figures",
        description=__doc__,
        epilog="walks: " + "; ".join(f"{name}: {what}" for name, (_, what) in WALKS.items()),
    )
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--helpers", metavar="PATH", help="list the one-use private helpers of a folder or file")
    one.add_argument("--walk", choices=WALKS, metavar="NAME", help="list the functions of a walk in order")
    one.add_argument(
        *("--cost",),
        nargs="*",
        metavar="FOLDER",
        help="only the CPU time of limits, usage, traces and the journal; or that of several forms of Berth, each a "
        "folder: a clone, or its .compiled",
    )
    one.add_argument("--budget", action="store_true", help="also end with 1 when a figure is over its budget")
    parser.add_argument("--python", default=sys.executable, help="for --cost FOLDER: which Python runs the forms")
    parser.add_argument(
        "--instructions", action="store_true", help="with --cost FOLDER: count them instead, by Valgrind"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, walks step by step")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = parse(words)
    if options.helpers:
        print(_helpers(options.helpers))
        return 0
    if options.cost is not None:
        print(_cost(options.cost, options.python, by_instructions=options.instructions))
        return 0
    if options.walk:
        print(report.walk(walks_of([WALKS[options.walk][0]])[options.walk]))
        return 0
    files = read_package(ROOT / "berth")
    census, imports, walks = take(files, one_use_helpers(files)), folders(files), walks_of()
    lengths = {name: length(walk) for name, walk in walks.items()}
    calls = system_calls() if is_available() else {}
    figures = measured(census[0], imports, lengths, cost.calls(), calls)
    print(report.code(census), report.imports(imports), report.walks(lengths), report.budget(figures), sep="\n\n")
    if options.json:
        document = {"code": census, "imports": imports, "walks": lengths, "budget": figures, "steps": walks}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2))
    problems = excesses(figures) if options.budget else []
    print("".join(f"\nover budget: {problem}" for problem in problems), end="\n" if problems else "")
    return 1 if problems else 0


def _cost(folders: Sequence[str], python: str, *, by_instructions: bool) -> str:
    if not folders:
        return cost.text(cost.costs(), cost.calls())
    if by_instructions:
        return instructions.text(instructions.instructions(folders, python=python))
    return forms.text(forms.compare(folders, python=python))


def _helpers(path: str) -> str:
    chosen = [one for one in one_use_helpers(read_package(ROOT / "berth")) if is_within(one.function.path, path)]
    return "\n".join([*(one.text for one in chosen), f"{len(chosen)} one-use private helpers"])


if __name__ == "__main__":
    sys.exit(main())

"""Figures of the code base: `python -m etc.tools.figures`, or `make figures FIGURES="--helpers berth/router"`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from etc.tools.figures import report
from etc.tools.figures.census import is_within, take
from etc.tools.figures.helpers import one_use_helpers
from etc.tools.figures.imports import folders
from etc.tools.figures.source import read_package

ROOT = Path(__file__).resolve().parents[3]


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m etc.tools.figures", description=__doc__)
    parser.add_argument("--helpers", metavar="PATH", help="list the one-use private helpers of a folder or file")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = parse(words)
    files = read_package(ROOT / "berth")
    helpers = one_use_helpers(files)
    if options.helpers:
        chosen = [one for one in helpers if is_within(one.function.path, options.helpers.rstrip("/"))]
        print("\n".join([*(one.text for one in chosen), f"{len(chosen)} one-use private helpers"]))
        return 0
    print(report.code(take(files, helpers)))
    print()
    print(report.imports(folders(files)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

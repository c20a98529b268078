"""Ends with 1 unless every listed module in a folder is compiled: `python -m etc.compile.assert_compiled FOLDER`."""

import sys
from pathlib import Path

from etc.compile.modules import modules


def main(folder: str) -> int:
    listed = [Path(folder, module) for module in modules(Path(folder))]
    missing = [str(module) for module in listed if not list(module.parent.glob(f"{module.stem}.*.so"))]
    print(f"{len(listed) - len(missing)} of {len(listed)} modules are compiled", *missing, sep="\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""Ends with 1 unless every listed module in a folder is compiled: `python -m etc.compile.assert_compiled FOLDER`."""

import sys
from pathlib import Path

from etc.compile.modules import LIST, read


def main(folder: str) -> int:
    libraries = read(Path(folder), LIST.read_text())
    modules = [Path(folder, module) for found in libraries.values() for module in found]
    missing = [str(module) for module in modules if not list(module.parent.glob(f"{module.stem}.*.so"))]
    print(f"{len(modules) - len(missing)} of {len(modules)} modules are compiled", *missing, sep="\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""Which modules are compiled: reads modules.txt. The build runs it too, so it imports the standard library only."""

from pathlib import Path

LIST = Path(__file__).parent / "modules.txt"


def read(root: Path, text: str) -> dict[str, list[str]]:
    """Shared library -> its modules' paths from `root`. ValueError for a pattern that matches no module."""
    libraries: dict[str, list[str]] = {}
    modules: list[str] = []
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        if line.startswith("["):
            modules = libraries.setdefault(line.strip("[]"), [])
            continue
        found = sorted(str(path.relative_to(root)) for path in root.glob(line) if path.suffix == ".py")
        if not found:
            raise ValueError(f"{LIST.name}: {line!r} is no module of Berth")
        modules += (path for path in found if path not in modules)
    return libraries

"""Which modules are compiled: reads modules.txt. The build runs it too, so it imports the standard library only."""

from pathlib import Path

LIST = Path(__file__).parent / "modules.txt"


def modules(root: Path) -> list[str]:
    """Their paths from `root`. ValueError for one that is no module there."""
    lines = (line.partition("#")[0].strip() for line in LIST.read_text().splitlines())
    listed = [line for line in lines if line]
    for path in listed:
        if not (root / path).is_file():
            raise ValueError(f"{LIST.name}: {path!r} is no module of Berth")
    return listed

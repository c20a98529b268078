"""Engine environments without engines: a python, and the metadata that `pip` would have left."""

import sys
from pathlib import Path


def install(engine_home: Path, engine: str, distribution: str, version: str, *, metadata: str | None = None) -> Path:
    """Makes <engine_home>/<engine> look as if `distribution` were installed there; gives the environment's path."""
    home = engine_home / engine
    (home / "bin").mkdir(parents=True, exist_ok=True)
    if not (home / "bin" / "python").exists():
        (home / "bin" / "python").symlink_to(sys.executable)
    folder = home / "lib" / "python3.12" / "site-packages" / f"{distribution.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n" if metadata is None else metadata
    (folder / "METADATA").write_text(text)
    return home

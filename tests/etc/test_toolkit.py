"""The CUDA toolkit's folder, made from what the packages of the index bring."""

import shutil
import subprocess
from pathlib import Path

import pytest

from etc.engines.toolkit import functions, make_toolkit

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="the stub is compiled")


def environment(folder: Path, files: tuple[str, ...], header: str = "") -> Path:
    root = folder / "vllm/lib/python3.12/site-packages/nvidia/cu13"
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(header if name == "include/cuda.h" else name)
    return folder / "vllm"


@needs_cc
def test_has_the_layout_of_nvidias_installer(tmp_path: Path) -> None:
    files = ("bin/nvcc", "bin/ptxas", "include/cuda.h", "nvvm/bin/cicc", "lib/libcudart.so.13", "lib/libcudadevrt.a")
    toolkit = tmp_path / "cuda"
    assert make_toolkit(environment(tmp_path, files), toolkit)
    for name in files:
        assert (toolkit / name.replace("lib/", "lib64/")).exists()
    assert (toolkit / "lib/libcudart.so").read_text() == "lib/libcudart.so.13"
    assert not (toolkit / "bin").is_symlink()


@needs_cc
def test_links_a_program_without_an_installed_driver(tmp_path: Path) -> None:
    files = ("bin/nvcc", "lib/libcudart.so.13", "include/cuda.h")
    make_toolkit(environment(tmp_path, files, "CUresult CUDAAPI cuInit(unsigned int Flags);"), tmp_path / "cuda")
    source = tmp_path / "x.c"
    source.write_text("int cuInit(unsigned); int x(void) { return cuInit(0); }\n")
    stubs = tmp_path / "cuda/lib64/stubs"
    library = tmp_path / "x.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, f"-L{stubs}", "-lcuda"], check=True)
    assert b"libcuda.so.1\0" in library.read_bytes()


def test_stub_has_the_functions_of_the_header() -> None:
    header = """
    /* cuOld() was here once, and
       cuMentioned() too */
    #define cuMemAlloc cuMemAlloc_v2
    typedef enum CUresult_enum { CUDA_SUCCESS = 0 } CUresult;
    CUresult CUDAAPI cuInit(unsigned int Flags);
    CUresult CUDAAPI cuMemAlloc(CUdeviceptr *dptr, size_t bytesize);
    """
    assert functions(header) == ["cuInit", "cuMemAlloc", "cuMemAlloc_v2"]


def test_keeps_an_installed_driver(tmp_path: Path) -> None:
    (tmp_path / "cuda").mkdir()
    assert not make_toolkit(environment(tmp_path, ("bin/nvcc", "lib/x")), tmp_path / "cuda")
    assert list((tmp_path / "cuda").iterdir()) == []


def test_makes_no_stub_without_a_compiler(tmp_path: Path) -> None:
    assert not make_toolkit(environment(tmp_path, ("lib/libcudart.so.13",)), tmp_path / "cuda")
    assert not (tmp_path / "cuda").exists()

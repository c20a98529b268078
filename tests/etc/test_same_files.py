"""Files that two environments have in common are stored once."""

import csv
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from etc.engines.same_files import LEAST_BYTES, is_program, link_same_files, site_packages

LARGE = b"\x00" * LEAST_BYTES
LIBRARY = "nvidia/cu13/lib/libcublas.so.13"
ROOT = Path(__file__).resolve().parents[2]


def install(environment: Path, distribution: str, files: dict[str, bytes]) -> Path:
    """A package as an installer leaves it; returns site-packages."""
    packages = environment / "lib/python3.12/site-packages"
    info = packages / f"{distribution}.dist-info"
    info.mkdir(parents=True)
    for name, content in files.items():
        path = packages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with (info / "RECORD").open("w", newline="") as record:
        csv.writer(record).writerows((name, "", "") for name in files)
    return packages


def test_links_large_files_of_the_same_release(tmp_path: Path) -> None:
    first = install(tmp_path / "vllm", "nvidia_cublas-13.1", {LIBRARY: LARGE})
    second = install(tmp_path / "sglang", "nvidia_cublas-13.1", {LIBRARY: LARGE})
    assert link_same_files(second, first) == (1, LEAST_BYTES)
    assert (second / LIBRARY).resolve() == first / LIBRARY
    assert (second / LIBRARY).read_bytes() == LARGE


def test_link_survives_a_move_of_both(tmp_path: Path) -> None:
    first = install(tmp_path / "engines/vllm", "p-1", {LIBRARY: LARGE})
    link_same_files(install(tmp_path / "engines/sglang", "p-1", {LIBRARY: LARGE}), first)
    (tmp_path / "engines").rename(tmp_path / "moved")
    moved = site_packages(tmp_path / "moved/sglang") / LIBRARY
    assert moved.is_symlink()
    assert moved.read_bytes() == LARGE


@pytest.mark.parametrize(
    ("release", "name", "content", "earlier"),
    [
        ("p-2", LIBRARY, LARGE, LARGE),
        ("p-1", LIBRARY, LARGE, LARGE[:-1] + b"1"),
        ("p-1", LIBRARY, LARGE[:-1], LARGE[:-1]),
        ("p-1", "p/module.py", LARGE, LARGE),
        ("p-1", "p/script.sh", b"#!/bin/sh\n" + LARGE, b"#!/bin/sh\n" + LARGE),
    ],
    ids=["another release", "other bytes", "too small", "Python", "a script"],
)
def test_keeps_other_files(tmp_path: Path, release: str, name: str, content: bytes, earlier: bytes) -> None:
    first = install(tmp_path / "vllm", "p-1", {name: earlier})
    second = install(tmp_path / "sglang", release, {name: content})
    assert link_same_files(second, first) == (0, 0)
    assert not (second / name).is_symlink()


def test_third_environment_links_to_the_file_itself(tmp_path: Path) -> None:
    first, second, third = (
        install(tmp_path / name, "p-1", {LIBRARY: LARGE, f"{name}.txt": b""}) for name in ("a", "b", "c")
    )
    link_same_files(second, first)
    assert link_same_files(third, second) == (1, LEAST_BYTES)
    assert str((third / LIBRARY).readlink()) == os.path.relpath(first / LIBRARY, (third / LIBRARY).parent)


def test_skips_files_that_another_package_removed(tmp_path: Path) -> None:
    first = install(tmp_path / "vllm", "p-1", {LIBRARY: LARGE})
    second = install(tmp_path / "sglang", "p-1", {LIBRARY: LARGE, "p/gone": LARGE, "../../bin/p": LARGE})
    (second / "p/gone").unlink()
    (first / LIBRARY).unlink()
    assert link_same_files(second, first) == (0, 0)


def test_distinguishes_programs_and_libraries(tmp_path: Path) -> None:
    source, library, program = tmp_path / "x.c", tmp_path / "libx.so", tmp_path / "x"
    shell = Path(shutil.which("sh") or "/bin/sh").resolve()
    assert is_program(shell)
    if shutil.which("cc"):
        source.write_text("int x(void) { return 1; }\nint main(void) { return x(); }\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        subprocess.run(["cc", "-o", program, source], check=True)
        assert not is_program(library)
        assert is_program(program)
    source.write_text("")
    assert not is_program(source)


def test_prints_the_saved_space(tmp_path: Path) -> None:
    install(tmp_path / "vllm", "p-1", {LIBRARY: LARGE * 16})
    install(tmp_path / "sglang", "p-1", {LIBRARY: LARGE * 16})
    command = ["python3", f"{ROOT}/etc/engines/same_files.py", f"{tmp_path}/sglang", f"{tmp_path}/vllm"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1 files" in done.stdout
    assert "1 MB saved" in done.stdout

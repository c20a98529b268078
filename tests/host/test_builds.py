"""What boxes compare of their images."""

from pathlib import Path

from berth.host.builds import own_build, packages


def test_own_code_has_one_digest() -> None:
    assert own_build() == own_build()
    assert len(own_build()) == 12


def install(home: Path, *names: str) -> Path:
    for name in names:
        (home / f"lib/python3.12/site-packages/{name}.dist-info").mkdir(parents=True)
    return home


def test_packages_that_matter_are_named_and_all_count(tmp_path: Path) -> None:
    common = ("torch-2.13.0", "nvidia_nccl_cu13-2.28.1", "idna-3.1")
    one = packages(str(install(tmp_path / "a", *common, "ray-2.60.0")))
    assert one.startswith("nvidia-nccl-cu13 2.28.1, ray 2.60.0, torch 2.13.0, 4 in all (")
    same = packages(str(install(tmp_path / "b", "ray-2.60.0", *common)))
    assert same == one
    other = packages(str(install(tmp_path / "c", *common[:2], "ray-2.60.0", "idna-3.2")))
    assert other.partition("(")[0] == one.partition("(")[0]
    assert other != one
    assert packages(str(tmp_path / "nothing")) == ""

"""`berth import`: what was exported arrives; what was tampered with, cut off or made by others does not."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from berth.boot.checkpoints import cache
from berth.boot.checkpoints.archive import Manifest
from berth.boot.checkpoints.export import export
from berth.boot.checkpoints.files import HubModel
from berth.boot.checkpoints.import_ import import_
from berth.errors import ArchiveError, UnwritableError
from tests.fakes.hub import sha256
from tests.fakes.hub_cache import COMMIT, FILES, store

HUB = "huggingface/hub/models--org--chat"


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    """A model and a compile cache."""
    data = tmp_path / "data"
    store(data)
    (data / "cache/vllm").mkdir(parents=True)
    (data / "cache/vllm/kernel.so").write_bytes(b"so")
    out = io.BytesIO()
    assert export({"BERTH_DATA": str(data)}, [], out) == 0
    return out.getvalue()


def take(root: Path, data: bytes) -> int:
    return import_({"BERTH_DATA": str(root)}, io.BytesIO(data))


def snapshot(root: Path) -> cache.CachedSnapshot:
    return cache.cached_snapshot(cache.hub_cache(str(root)), HubModel(source="org/chat"))


def altered(archive: bytes, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes] | None]) -> bytes:
    """The archive with each member as `change` makes it; None: omitted."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old.getmembers():
            content = old.extractfile(member) if member.isreg() else None
            found = change(member, content.read() if content else b"")
            if found:
                found[0].size = len(found[1])
                new.addfile(found[0], io.BytesIO(found[1]))
    return out.getvalue()


def with_member(archive: bytes, name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """The archive with one member more, right behind the manifest."""
    out = io.BytesIO()
    extra = tarfile.TarInfo(name)
    extra.type, extra.linkname = kind, link
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for number, member in enumerate(old.getmembers()):
            if number == 1:
                new.addfile(extra)
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
    return out.getvalue()


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_imports_an_export(tmp_path: Path, archive: bytes, packed: Callable[[bytes], bytes]) -> None:
    assert take(tmp_path / "new", packed(archive)) == 0
    found = snapshot(tmp_path / "new")
    assert found.complete
    assert found.folder is not None
    assert found.folder.name == COMMIT
    assert all((found.folder / name).read_bytes() == content for name, content in FILES.items())
    assert not (found.folder / "config.json").readlink().is_absolute()
    assert cache.read_record(found.repository, COMMIT) is not None
    assert (tmp_path / "new/cache/vllm/kernel.so").read_bytes() == b"so"


def test_a_second_import_writes_nothing(tmp_path: Path, archive: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    take(tmp_path / "new", archive)
    take(tmp_path / "new", archive)
    assert capsys.readouterr().err.splitlines()[-1] == f"0.00B written to {tmp_path / 'new'}, the rest was present"


def test_imports_mirror_names_and_plain_files(tmp_path: Path) -> None:
    folder = store(tmp_path / "data")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_bytes(b"{}")
    out = io.BytesIO()
    export({"BERTH_DATA": str(tmp_path / "data")}, ["org/chat"], out)
    take(tmp_path / "new", out.getvalue())
    assert snapshot(tmp_path / "new").complete


def test_imports_a_cache_without_record(tmp_path: Path) -> None:
    folder = store(tmp_path / "data")
    home = folder.parents[1]
    cache.record_path(home, COMMIT).unlink()
    cache.write_commit(home, "v0", "b" * 40)
    out = io.BytesIO()
    export({"BERTH_DATA": str(tmp_path / "data")}, ["org/chat"], out)
    take(tmp_path / "new", out.getvalue())
    found = snapshot(tmp_path / "new")
    assert found.complete
    assert cache.read_record(found.repository, COMMIT) is None
    assert [path.name for path in (found.repository / "refs").iterdir()] == ["main"]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_archive_leaves_no_model(tmp_path: Path, archive: bytes, share: float) -> None:
    large = len(archive) - 10_240  # less the padding
    with pytest.raises(ArchiveError, match=r"truncated|damaged"):
        take(tmp_path / "new", archive[: int(large * share)])
    assert snapshot(tmp_path / "new").folder is None
    assert take(tmp_path / "new", archive) == 0
    assert snapshot(tmp_path / "new").complete


def test_rejects_missing_blob(tmp_path: Path, archive: bytes) -> None:
    cut = altered(archive, lambda member, data: None if "/blobs/" in member.name else (member, data))
    with pytest.raises(ArchiveError, match="3 files are missing, the first is huggingface/hub"):
        take(tmp_path / "new", cut)
    assert snapshot(tmp_path / "new").folder is None


def test_rejects_changed_bytes(tmp_path: Path, archive: bytes) -> None:
    weights = sha256(FILES["model.safetensors"])

    def flip(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        return member, data[:-1] + b"?" if member.name.endswith(weights) else data

    with pytest.raises(ArchiveError, match="is damaged: its content does not match its checksum"):
        take(tmp_path / "new", altered(archive, flip))
    assert snapshot(tmp_path / "new").folder is None
    assert not list((tmp_path / "new").rglob("*.import"))


def test_rejects_blob_of_another_size(tmp_path: Path, archive: bytes) -> None:
    longer = altered(archive, lambda member, data: (member, data + b"x" if "/blobs/" in member.name else data))
    with pytest.raises(ArchiveError, match="bytes, expected"):
        take(tmp_path / "new", longer)


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../evil", tarfile.REGTYPE, ""),
        ("/etc/evil", tarfile.REGTYPE, ""),
        ("cache/../../evil", tarfile.REGTYPE, ""),
        ("cache/evil", tarfile.SYMTYPE, "/etc/passwd"),
        ("cache/evil", tarfile.LNKTYPE, "berth-export.json"),
        ("cache/evil", tarfile.FIFOTYPE, ""),
        ("cache/evil", tarfile.CHRTYPE, ""),
        ("cache", tarfile.REGTYPE, ""),
        ("evil", tarfile.REGTYPE, ""),
        (f"{HUB}/blobs/{'f' * 40}", tarfile.REGTYPE, ""),
        ("huggingface/token", tarfile.REGTYPE, ""),
    ],
)
def test_rejects_unexpected_members(tmp_path: Path, archive: bytes, name: str, kind: bytes, link: str) -> None:
    with pytest.raises(ArchiveError, match=r"unexpected member|is outside"):
        take(tmp_path / "new", with_member(archive, name, kind=kind, link=link))
    assert not list(tmp_path.rglob("*evil*"))
    assert snapshot(tmp_path / "new").folder is None


def test_ignores_link_targets_of_the_archive(tmp_path: Path, archive: bytes) -> None:
    def point(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.issym():
            member.linkname = "/etc/passwd"
        return member, data

    take(tmp_path / "new", altered(archive, point))
    assert snapshot(tmp_path / "new").complete


CACHE = "cache/vllm/kernel.so"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"oh", "is damaged: its content does not match its checksum"), (b"so!", "has 3 bytes, expected 2")],
)
def test_rejects_changed_compile_cache(tmp_path: Path, archive: bytes, content: bytes, words: str) -> None:
    changed = altered(archive, lambda member, data: (member, content if member.name == CACHE else data))
    with pytest.raises(ArchiveError, match=words):
        take(tmp_path / "new", changed)
    assert not list((tmp_path / "new/cache").rglob("*.so*"))
    assert snapshot(tmp_path / "new").folder is None


def test_rejects_missing_cache_file(tmp_path: Path, archive: bytes) -> None:
    cut = altered(archive, lambda member, data: None if member.name == CACHE else (member, data))
    with pytest.raises(ArchiveError, match=f"1 files are missing, the first is {CACHE}"):
        take(tmp_path / "new", cut)


def test_keeps_existing_cache_file(tmp_path: Path, archive: bytes) -> None:
    own = tmp_path / "new" / CACHE
    own.parent.mkdir(parents=True)
    own.write_bytes(b"own")
    assert take(tmp_path / "new", archive) == 0
    assert own.read_bytes() == b"own"


@pytest.mark.parametrize("name", [CACHE, f"{HUB}/refs/main", f"{HUB}/blobs/{sha256(FILES['model.safetensors'])}"])
def test_rejects_duplicate_member(tmp_path: Path, archive: bytes, name: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old.getmembers():
            for _ in range(2 if member.name == name else 1):
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
    with pytest.raises(ArchiveError, match="duplicate member"):
        take(tmp_path / "new", out.getvalue())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_rejects_expected_name_that_is_not_a_regular_file(tmp_path: Path, archive: bytes, kind: bytes) -> None:
    def disguise(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name != CACHE:
            return member, data
        member.type, member.linkname = kind, "/etc/passwd"
        return member, b""

    with pytest.raises(ArchiveError, match="or not a regular file"):
        take(tmp_path / "new", altered(archive, disguise))
    assert not (tmp_path / "new" / CACHE).exists()


@pytest.mark.parametrize("name", ["snapshots", f"snapshots/{COMMIT}/evil", "refs/evil", "berth/evil.json"])
def test_rejects_metadata_unknown_to_the_manifest(tmp_path: Path, archive: bytes, name: str) -> None:
    with pytest.raises(ArchiveError, match="unexpected member"):
        take(tmp_path / "new", with_member(archive, f"{HUB}/{name}"))


def test_rejects_oversized_metadata(tmp_path: Path, archive: bytes) -> None:
    long = altered(archive, lambda member, data: (member, bytes(2**20 + 1) if member.name.endswith("main") else data))
    with pytest.raises(ArchiveError, match="unexpected member"):
        take(tmp_path / "new", long)


def test_imports_models_but_no_caches_of_format_1(
    tmp_path: Path, archive: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Berth wrote it in format 1."""

    def older(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name != "berth-export.json":
            return member, data
        manifest = json.loads(data)
        del manifest["caches"]
        return member, json.dumps({**manifest, "format": 1, "cache_files": 1, "cache_bytes": 2}).encode()

    assert take(tmp_path / "new", altered(archive, older)) == 0
    assert snapshot(tmp_path / "new").complete
    assert not (tmp_path / "new/cache").exists()
    assert "wrote no digests of them" in capsys.readouterr().err
    with pytest.raises(ArchiveError, match="unexpected member"):
        take(tmp_path / "new", with_member(altered(archive, older), "evil"))


def test_export_and_import_report_the_same_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path / "data")
    out = io.BytesIO()
    export({"BERTH_DATA": str(tmp_path / "data")}, [], out)
    reported = [line for line in capsys.readouterr().err.splitlines() if "the archive's digest is" in line]
    take(tmp_path / "new", out.getvalue())
    assert reported[0] in capsys.readouterr().err


def other(name: str = "berth-export.json", data: bytes = b"{}") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "truncated"),
        (b"no tar at all" * 100, "damaged or truncated"),
        (other("README"), "does not begin with berth-export.json"),
        (other(), "invalid berth-export.json"),
        (other(data=Manifest(berth="9", created=1, format=9).to_json()), "unsupported archive format 9"),
    ],
)
def test_rejects_foreign_archives(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ArchiveError, match=words):
        take(tmp_path, data)


def test_checks_disk_space_first(tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("berth.host.disk.free_disk", lambda _folder: 1)
    with pytest.raises(UnwritableError, match="has 0 MiB free"):
        take(tmp_path / "new", archive)
    assert not (tmp_path / "new").exists()


def test_unwritable_data_directory_is_reported(tmp_path: Path, archive: bytes) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnwritableError, match=r"BERTH_DATA='.*/file': "):
        take(tmp_path / "file", archive)


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def test_rejects_terminal_as_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_({"BERTH_DATA": str(tmp_path)}, Terminal()) == 2
    assert "berth import < berth.tar" in capsys.readouterr().err

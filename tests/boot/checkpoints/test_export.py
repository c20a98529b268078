"""`berth export`, read back with the standard library."""

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from berth.boot.checkpoints import cache
from berth.boot.checkpoints.archive import Manifest, PackedBlob
from berth.boot.checkpoints.export import export
from berth.boot.checkpoints.files import HubModel
from berth.errors import ArchiveError, ConfigError, UnwritableError
from tests.fakes.hub import sha256
from tests.fakes.hub_cache import COMMIT, FILES, store

Environ = dict[str, str]
HOME = "huggingface/hub/models--org--chat"


@pytest.fixture
def environ(tmp_path: Path) -> Environ:
    return {"BERTH_DATA": str(tmp_path)}


def exported(environ: Environ, *names: str) -> tuple[Manifest, dict[str, tarfile.TarInfo], tarfile.TarFile]:
    out = io.BytesIO()
    assert export(environ, names, out) == 0
    out.seek(0)
    tar = tarfile.open(fileobj=out)  # noqa: SIM115 - of a buffer
    members = {member.name: member for member in tar.getmembers()}
    first = tar.extractfile(next(iter(members)))
    assert first is not None
    return Manifest.from_json(first.read()), members, tar


def test_export_writes_blobs_first_and_references_last(environ: Environ, tmp_path: Path) -> None:
    store(tmp_path)
    manifest, members, tar = exported(environ)
    names = list(members)
    assert names[0] == "berth-export.json"
    kinds = [name.removeprefix(HOME).split("/")[1] for name in names[1:]]
    assert kinds == ["blobs"] * 3 + ["snapshots"] * 4 + ["berth", "refs"]
    link = members[f"{HOME}/snapshots/{COMMIT}/1_Pooling/config.json"]
    assert link.linkname.startswith("../../../blobs/")
    weights = tar.extractfile(f"{HOME}/blobs/{sha256(FILES['model.safetensors'])}")
    assert weights is not None
    assert weights.read() == FILES["model.safetensors"]
    [model] = manifest.models
    assert (model.source, model.commit, model.revisions) == ("org/chat", COMMIT, ("main",))
    assert model.record == {name: len(content) for name, content in FILES.items()}


def test_unpacked_archive_is_a_cache(environ: Environ, tmp_path: Path) -> None:
    store(tmp_path)
    _, _, tar = exported(environ)
    tar.extractall(tmp_path / "copy", filter="data")
    assert cache.cached_snapshot(cache.hub_cache(str(tmp_path / "copy")), HubModel(source="org/chat")).complete


def test_exports_compile_caches_without_links_locks_and_odd_names(
    environ: Environ, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache/vllm/x"
    folder.mkdir(parents=True)
    for name in ("kernel.so", "kernel.lock", "odd\nname"):
        (folder / name).write_bytes(b"so")
    (folder / "link").symlink_to("/etc/passwd")
    manifest, members, _ = exported(environ)
    assert list(members)[1:] == ["cache/vllm/x/kernel.so"]
    assert manifest.caches == {"cache/vllm/x/kernel.so": PackedBlob(size=2, sha256=sha256(b"so"))}
    reported = capsys.readouterr().err
    assert r"skipped: 'cache/vllm/x/odd\nname'" in reported
    assert f"the archive's digest is {manifest.digest}" in reported


def sources(manifest: Manifest) -> list[str]:
    return [model.source for model in manifest.models]


def test_selects_models_to_export(environ: Environ, tmp_path: Path) -> None:
    for source in ("org/chat", "org/draft", "org/other"):
        store(tmp_path, source)
    named = environ | {"BERTH_MODELS": "chat: {source: org/chat, engines: [vllm], extra_sources: [org/draft]}"}
    assert sources(exported(environ)[0]) == ["org/chat", "org/draft", "org/other"]
    assert sources(exported(environ, "org/other")[0]) == ["org/other"]
    assert sources(exported(named)[0]) == ["org/chat", "org/draft"]
    assert sources(exported(named, "chat", "org/other")[0]) == ["org/chat", "org/draft", "org/other"]


def test_rejects_incomplete_requested_model_and_skips_others(
    environ: Environ, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store(tmp_path) / "tokenizer.json").unlink()
    out = io.BytesIO()
    with pytest.raises(ConfigError, match=r"MODEL='org/chat': lacks tokenizer.json in .* `berth fetch`"):
        export(environ, ["org/chat"], out)
    assert out.getvalue() == b""
    assert sources(exported(environ)[0]) == []
    assert "skipped: org/chat at aaaaaaaaaaaa lacks tokenizer.json" in capsys.readouterr().err


def test_unknown_model_is_a_usage_error(environ: Environ, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(environ, ["chta"], io.BytesIO()) == 2
    assert "unknown model chta; " in capsys.readouterr().err
    store(tmp_path)
    assert export(environ, ["chta"], io.BytesIO()) == 2
    assert "has: org/chat" in capsys.readouterr().err


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def test_rejects_terminal_as_output(environ: Environ, capsys: pytest.CaptureFixture[str]) -> None:
    out = Terminal()
    assert export(environ, [], out) == 2
    assert out.getvalue() == b""
    assert "berth export > berth.tar" in capsys.readouterr().err


def test_exports_checksums_for_caches_without_links_or_digest_names(environ: Environ, tmp_path: Path) -> None:
    folder = store(tmp_path)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_bytes(b"{}")
    blob = folder.parents[1] / "blobs" / "etag-of-a-mirror"
    blob.write_bytes(FILES["config.json"])
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("../../blobs/etag-of-a-mirror")
    [model] = exported(environ)[0].models
    assert model.links["tokenizer.json"] == sha256(b"{}")
    assert model.blobs["etag-of-a-mirror"].sha256 == sha256(FILES["config.json"])


@contextmanager
def vanishing(path: Path) -> Iterator[io.BytesIO]:
    """A file that goes away, or becomes shorter, as soon as something was written."""

    class Out(io.BytesIO):
        def write(self, data: object, /) -> int:
            path.unlink(missing_ok=True)
            return super().write(data)  # type: ignore[arg-type]  # what a tar hands over

    yield Out()


def test_changed_cache_file_fails_the_export(environ: Environ, tmp_path: Path) -> None:
    store(tmp_path, files={**FILES, "model.safetensors": bytes(3 << 20)})
    path = tmp_path / "cache/a"
    path.parent.mkdir()
    path.write_bytes(b"1")

    class Out(io.BytesIO):
        def write(self, data: object, /) -> int:
            path.write_bytes(b"2")
            return super().write(data)  # type: ignore[arg-type]  # what a tar hands over

    with pytest.raises(ArchiveError, match=r"cache/a changed during the export: export again"):
        export(environ, [], Out())


def test_removed_cache_file_fails_the_export(environ: Environ, tmp_path: Path) -> None:
    store(tmp_path, files={**FILES, "model.safetensors": bytes(3 << 20)})
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    with (
        vanishing(folder / "a") as out,
        pytest.raises(ArchiveError, match=r"cache/a changed during the export .* export again"),
    ):
        export(environ, [], out)


class Full(io.BytesIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, _data: object, /) -> int:
        raise self.error


def test_full_or_closed_output_is_reported(environ: Environ, tmp_path: Path) -> None:
    store(tmp_path, files={**FILES, "model.safetensors": bytes(3 << 20)})
    with pytest.raises(UnwritableError, match="standard output: No space left"):
        export(environ, [], Full(OSError(28, "No space left on device")))
    with pytest.raises(BrokenPipeError):
        export(environ, [], Full(BrokenPipeError(32, "Broken pipe")))

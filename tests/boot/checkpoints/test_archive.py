"""The manifest of an archive, and its checks."""

from dataclasses import replace
from pathlib import Path

import pytest

from berth.boot.checkpoints.archive import (
    Manifest,
    PackedBlob,
    PackedModel,
    digest_of,
    is_digest,
    parts_of,
    settings_of,
)
from berth.errors import ArchiveError
from tests.fakes.hub import git_blob, sha256

MODEL = PackedModel(
    source="org/chat",
    repository="models--org--chat",
    commit="a" * 40,
    revisions=("main", "refs/pr/1"),
    blobs={"b" * 40: PackedBlob(size=3)},
    links={"1_Pooling/config.json": "b" * 40},
)
MANIFEST = Manifest(berth="0.1.0", created=1, models=(MODEL,))


def test_manifest_round_trip() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert MODEL.size == 3


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"format": 1}'])
def test_rejects_invalid_manifest(data: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"invalid berth-export\.json"):
        Manifest.from_json(data)


def test_rejects_unknown_format() -> None:
    with pytest.raises(ArchiveError, match="unsupported archive format 3; this Berth reads 1 and 2"):
        Manifest.from_json(replace(MANIFEST, format=3).to_json())


SHA256 = "a" * 64


def test_manifest_with_caches_round_trip() -> None:
    manifest = replace(MANIFEST, caches={"cache/vllm/a b/ü.so": PackedBlob(size=3, sha256=SHA256)})

    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.cache_bytes == 3
    assert manifest.digest != MANIFEST.digest


@pytest.mark.parametrize(
    "caches",
    [
        {path: PackedBlob(size=1, sha256=SHA256)}
        for path in (
            *("/cache/x", "cache", "cache/", "cache//x", "cache/../x", "cache/./x", "../cache/x", "models/x", ""),
            *("cache/a\nb", "cache/a\0b", "cache/a\\b", "cache/\u202ex", f"cache/{'x' * 256}", f"cache/{'ü' * 128}"),
        )
    ]
    + [
        {"cache/x": PackedBlob(size=-1, sha256=SHA256)},
        {"cache/x": PackedBlob(size=1)},
        {"cache/x": PackedBlob(size=1, sha256="a" * 40)},
        {"cache/x": PackedBlob(size=1, sha256="A" * 64)},
        {"cache/x": PackedBlob(size=1, sha256=SHA256), "cache/x/y": PackedBlob(size=1, sha256=SHA256)},
    ],
)
def test_rejects_invalid_cache_entries(caches: dict[str, PackedBlob]) -> None:
    with pytest.raises(ArchiveError, match=r"is not valid in a compile cache|has no valid size or SHA-256"):
        Manifest.from_json(replace(MANIFEST, caches=caches).to_json())


@pytest.mark.parametrize(
    "model",
    [
        replace(MODEL, repository="models--../x"),
        replace(MODEL, repository="../models--x"),
        replace(MODEL, repository="models--a..b"),
        replace(MODEL, commit="../../x"),
        replace(MODEL, revisions=("../../../x",)),
        replace(MODEL, revisions=("/etc",)),
        replace(MODEL, links={"../config.json": "b" * 40}),
        replace(MODEL, links={"/config.json": "b" * 40}),
        replace(MODEL, links={"config.json": "../../../etc/passwd"}),
        replace(MODEL, blobs={"..": PackedBlob(size=1)}, links={}),
        replace(MODEL, blobs={"a/b": PackedBlob(size=1)}, links={}),
        replace(MODEL, blobs={"b" * 40: PackedBlob(size=-1)}),
    ],
)
def test_rejects_manifest_that_leaves_the_cache(model: PackedModel) -> None:
    with pytest.raises(ArchiveError, match=r"is outside|is not valid|is inconsistent"):
        Manifest.from_json(replace(MANIFEST, models=(model,)).to_json())


@pytest.mark.parametrize("path", ["", "/etc/passwd", "a/../b", "a//b", "./a", "a/.", "a\0b"])
def test_rejects_paths_outside_the_data_directory(path: str) -> None:
    with pytest.raises(ArchiveError, match="is outside the data directory"):
        parts_of(path)


def test_blob_digest_comes_from_name_or_manifest() -> None:
    content = b"abc"
    cases = [(sha256(content), ""), (git_blob(content), ""), ("mirror-etag", sha256(content))]
    for name, digest in cases:
        found, expected = digest_of(name, PackedBlob(size=3, sha256=digest))
        found.update(content)
        assert found.hexdigest() == expected
        assert is_digest(name) is not bool(digest)


def test_settings_without_models(tmp_path: Path) -> None:
    found = settings_of({"BERTH_DATA": str(tmp_path)})
    assert (found.data_dir, found.models) == (str(tmp_path), ())
    assert [spec.name for spec in settings_of({"BERTH_MODELS": "a=x@sim"}).models] == ["a"]


def test_validates_a_manifest_that_was_not_read() -> None:
    MANIFEST.validate()
    with pytest.raises(ArchiveError, match="not valid in the hub's cache"):
        replace(MANIFEST, models=(replace(MODEL, commit="../x"),)).validate()

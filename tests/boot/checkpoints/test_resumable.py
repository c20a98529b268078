"""One large file from a hub on loopback that cuts connections, ignores ranges and sends wrong bytes."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError

from berth.boot.checkpoints.cache import partial
from berth.boot.checkpoints.hub import OutOfReachError
from berth.boot.checkpoints.resumable import Blob, download_blob
from tests.fakes.hub import COMMIT, FakeHub, Fault, serving, sha256

CONTENT = bytes(range(256)) * 4096
NAME = "model.safetensors"


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with serving(FakeHub(files={NAME: CONTENT}, token="hf_right")) as hub:
        yield hub


@pytest.fixture
def blob(server: FakeHub, tmp_path: Path) -> Blob:
    digest = sha256(CONTENT)
    return Blob(
        url=f"{server.endpoint}/{server.model}/resolve/{COMMIT}/{NAME}",
        path=tmp_path / "blobs" / digest,
        lock=tmp_path / "locks" / digest,
        size=len(CONTENT),
        sha256=digest,
        token="hf_right",
    )


def fetch(blob: Blob) -> list[str]:
    reported: list[str] = []
    download_blob(blob, stopped=lambda: False, report=reported.append)
    return reported


def test_downloads_a_file_without_token_to_the_storage(server: FakeHub, blob: Blob) -> None:
    assert fetch(blob) == []
    assert blob.path.read_bytes() == CONTENT
    assert not partial(blob.path).exists()
    assert server.leaked == []


def test_resumes_after_a_lost_connection(server: FakeHub, blob: Blob) -> None:
    server.faults = [Fault(cut_after=300_000, times=2)]
    reported = fetch(blob)
    assert blob.path.read_bytes() == CONTENT
    assert server.ranges == ["", "bytes=300000-", "bytes=600000-"]
    assert "connection lost" in reported[0]
    assert f"resuming at 300000 of {len(CONTENT)} bytes" in reported[0]


def test_resumes_a_previous_process(server: FakeHub, blob: Blob) -> None:
    blob.path.parent.mkdir()
    partial(blob.path).write_bytes(CONTENT[:500_000])
    fetch(blob)
    assert blob.path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=500000-"]


def test_restarts_if_the_server_has_no_ranges(server: FakeHub, blob: Blob) -> None:
    blob.path.parent.mkdir()
    partial(blob.path).write_bytes(b"?" * 500_000)
    server.faults = [Fault(ignores_range=True)]
    fetch(blob)
    assert blob.path.read_bytes() == CONTENT


def test_discards_an_oversized_partial_file(server: FakeHub, blob: Blob) -> None:
    blob.path.parent.mkdir()
    partial(blob.path).write_bytes(CONTENT + b"?")
    fetch(blob)
    assert server.ranges == [""]


def test_rejects_wrong_checksum(server: FakeHub, blob: Blob) -> None:
    server.faults = [Fault(corrupt=True)]
    with pytest.raises(OutOfReachError, match="checksum"):
        fetch(blob)
    assert not blob.path.exists()
    fetch(blob)
    assert blob.path.read_bytes() == CONTENT


def test_connection_without_data_raises(server: FakeHub, blob: Blob) -> None:
    server.faults = [Fault(status=500)]
    with pytest.raises(HfHubHTTPError):
        fetch(blob)
    server.faults = [Fault(cut_after=0)]
    with pytest.raises(Exception, match="closed connection"):
        fetch(blob)


def test_empty_response_is_an_error(server: FakeHub, blob: Blob) -> None:
    server.files = {NAME: b""}
    with pytest.raises(OutOfReachError, match="without content"):
        fetch(blob)


def test_stops_on_request(blob: Blob) -> None:
    download_blob(blob, stopped=lambda: True, report=print)
    assert not blob.path.exists()
    assert 0 < partial(blob.path).stat().st_size < len(CONTENT)


def test_concurrent_callers_download_once(server: FakeHub, blob: Blob) -> None:
    server.faults = [Fault(pause_s=0.2)]
    threads = [threading.Thread(target=fetch, args=(blob,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blob.path.read_bytes() == CONTENT
    assert server.ranges == [""]

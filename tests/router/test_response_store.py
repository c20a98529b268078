import os
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth import json_text
from berth.apis.responses.store import StoredResponse
from berth.router.response_store import ResponseFiles, fair_share

MINE = {b"authorization": b"Bearer mine"}
OTHER = {b"x-api-key": b"other"}


def stored(name: str, text: str = "Hi") -> StoredResponse:
    return StoredResponse(response={"id": name, "output": [{"text": text}]}, input=[{"id": "msg", "text": "é"}])


def store(folder: Path, **options: Any) -> ResponseFiles:
    return ResponseFiles(folder / "responses", **{"writers": 1, "open_access": False, **options})


def files(folder: Path) -> list[Path]:
    return sorted((folder / "responses").iterdir(), key=lambda file: file.stat().st_mtime_ns)


def test_workers_share_stored_responses(tmp_path: Path) -> None:
    store(tmp_path).put("me", stored("resp_1"))

    assert store(tmp_path).get("me", "resp_1") == stored("resp_1")


def test_store_is_empty_at_first(tmp_path: Path) -> None:
    assert store(tmp_path).get("me", "resp_1") is None
    assert not store(tmp_path).delete("me", "resp_1")


def test_owner_is_a_digest_of_the_key(tmp_path: Path) -> None:
    responses = store(tmp_path)
    mine, other, nobody = responses.owner(MINE), responses.owner(OTHER), responses.owner({})

    assert len({mine, other, nobody}) == 3
    assert "mine" not in mine
    assert mine == store(tmp_path).owner({b"x-api-key": b"mine"})


def test_all_clients_share_one_owner_without_keys(tmp_path: Path) -> None:
    responses = store(tmp_path, open_access=True)

    assert responses.owner(MINE) == responses.owner({})


def test_other_key_finds_nothing(tmp_path: Path) -> None:
    responses = store(tmp_path)
    responses.put("me", stored("resp_1"))

    assert responses.get("you", "resp_1") is None
    assert not responses.delete("you", "resp_1")
    assert responses.delete("me", "resp_1")
    assert responses.get("me", "resp_1") is None


@pytest.mark.parametrize("name", ["../../../etc/passwd", "", "\0", "é" * 300, "\ud800"])
def test_id_is_never_a_path(tmp_path: Path, name: str) -> None:
    responses = store(tmp_path)
    responses.put("me", stored("x"))

    assert responses.get("me", name) is None
    assert [file.parent for file in files(tmp_path)] == [tmp_path / "responses"]


def test_files_are_readable_for_their_owner_only(tmp_path: Path) -> None:
    store(tmp_path).put("me", stored("resp_1"))

    assert stat.S_IMODE((tmp_path / "responses").stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in files(tmp_path)] == [0o600]


@pytest.mark.parametrize("damage", [b"", b"zz", b"%s0", b"00000000\n{}", b"0d4cbb29\n[]"])
def test_damaged_file_is_ignored(tmp_path: Path, damage: bytes) -> None:
    responses = store(tmp_path)
    responses.put("me", stored("resp_1"))
    (file,) = files(tmp_path)
    file.write_bytes(damage.replace(b"%s", file.read_bytes()))

    assert responses.get("me", "resp_1") is None


def test_changed_byte_is_detected(tmp_path: Path) -> None:
    responses = store(tmp_path)
    responses.put("me", stored("resp_1"))
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes().replace(b"Hi", b"Ho"))

    assert responses.get("me", "resp_1") is None


def test_files_of_another_format_are_ignored(tmp_path: Path) -> None:
    """As an older or newer Berth might have left them."""
    responses = store(tmp_path)
    responses.put("me", stored("resp_1"))
    (file,) = files(tmp_path)
    file.write_bytes(b"d3b5e1f4\n" + b'{"response":{}}')
    assert responses.get("me", "resp_1") is None
    file.unlink()
    file.mkdir()

    assert responses.get("me", "resp_1") is None
    assert not responses.delete("me", "resp_1")


def test_removes_the_oldest_beyond_the_limit(tmp_path: Path) -> None:
    responses = store(tmp_path, most_files=10)
    for number in range(25):
        responses.put("me", stored(f"resp_{number}"))
        os.utime(files(tmp_path)[-1], ns=(number, number))
        assert len(files(tmp_path)) <= 10

    found = [number for number in range(25) if responses.get("me", f"resp_{number}")]
    assert found == list(range(found[0], 25))
    assert len(found) >= 5


def test_limits_the_bytes(tmp_path: Path) -> None:
    responses = store(tmp_path, most_bytes=40_000)
    for number in range(60):
        responses.put("me", stored(f"resp_{number}", "x" * 4_000))
        assert sum(file.stat().st_size for file in files(tmp_path)) <= 40_000

    assert responses.get("me", "resp_59") is not None
    assert responses.get("me", "resp_0") is None


@pytest.mark.parametrize("limit", [{"most_files": 20}, {"most_bytes": 40_000}])
def test_owner_removes_only_its_own_responses_beyond_its_share(tmp_path: Path, limit: dict[str, int]) -> None:
    """Two owners within their shares of the half that stays, and one that stores as much as it can."""
    responses = store(tmp_path, **limit)
    for owner, number in (("modest", 0), ("modest", 1), ("frugal", 0)):
        responses.put(owner, stored(f"resp_{number}", "x" * 1_800))
    for number in range(100):
        responses.put("greedy", stored(f"resp_{number}", "x" * 1_800))

    kept = [
        owner
        for owner, number in (("modest", 0), ("modest", 1), ("frugal", 0))
        if responses.get(owner, f"resp_{number}")
    ]
    assert kept == ["modest", "modest", "frugal"]
    assert responses.get("greedy", "resp_99") is not None
    assert responses.get("greedy", "resp_0") is None
    assert len(files(tmp_path)) <= 20


def test_owner_without_others_has_everything(tmp_path: Path) -> None:
    responses = store(tmp_path, most_files=10)
    for number in range(9):
        responses.put("me", stored(f"resp_{number}"))

    assert sum(responses.get("me", f"resp_{number}") is not None for number in range(9)) >= 5


@pytest.mark.parametrize(
    ("wanted", "most", "share"),
    [
        ([], 10, 10),
        ([3], 10, 10),
        ([30], 10, 10),
        ([1, 30], 10, 9),
        ([6, 6], 10, 5),
        ([2, 2, 30], 10, 6),
        ([7, 8, 9], 3, 1),
    ],
)
def test_fair_share(wanted: list[int], most: int, share: int) -> None:
    assert fair_share(wanted, most) == share


@given(st.lists(st.integers(0, 100), max_size=8), st.integers(0, 200))
def test_shares_keep_to_the_limit_and_leave_nothing_unused(wanted: list[int], most: int) -> None:
    share = fair_share(wanted, most)
    used = sum(min(want, share) for want in wanted)

    assert used <= most
    assert used == sum(wanted) or used > most - len(wanted)


@pytest.mark.parametrize(("depth", "kept"), [(300, True), (100_000, False)])
def test_response_nested_deeply_is_kept_while_it_can_be_read(tmp_path: Path, depth: int, kept: bool) -> None:
    deep: list[Any] = []
    for _ in range(depth):
        deep = [deep]
    responses = store(tmp_path)

    responses.put("me", StoredResponse(response={"id": "resp_1", "output": deep}, input=[]))

    assert (responses.get("me", "resp_1") is not None) is kept


def test_too_large_response_is_not_stored(tmp_path: Path) -> None:
    responses = store(tmp_path, most_bytes=40_000)
    responses.put("me", stored("resp_1"))
    responses.put("me", stored("resp_2", "x" * 30_000))

    assert responses.get("me", "resp_2") is None
    assert responses.get("me", "resp_1") is not None


def test_unwritable_folder_does_not_fail_the_request(tmp_path: Path) -> None:
    (tmp_path / "responses").write_text("in the way")

    store(tmp_path).put("me", stored("resp_1"))
    assert store(tmp_path).get("me", "resp_1") is None


def test_logs_once_that_nothing_can_be_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "responses"
    folder.write_text("in the way")
    responses = store(tmp_path)
    for number in range(3):
        responses.put("me", stored(f"resp_{number}"))
    assert caplog.messages == ["responses not stored"]
    folder.unlink()
    responses.put("me", stored("resp_3"))
    assert responses.get("me", "resp_3") is not None


def test_removes_half_written_files_of_killed_workers(tmp_path: Path) -> None:
    responses = store(tmp_path, most_files=4)
    responses.put("me", stored("resp_0"))
    half = tmp_path / "responses" / ".x.response.1"
    half.write_bytes(b"x")
    os.utime(half, ns=(0, 0))
    other = tmp_path / "responses" / ".y.response.2"
    other.write_bytes(b"x")
    for number in range(1, 8):
        responses.put("me", stored(f"resp_{number}"))

    assert (half.exists(), other.exists()) == (False, True)


def write(folder: Path, worker: int) -> bool:
    """As one of three workers. True: the last of what it kept is there."""
    responses = store(folder, writers=3, most_bytes=120_000)
    for number in range(80):
        responses.put("me", stored(f"resp_{worker}_{number}", "x" * 2_000))
    return responses.get("me", f"resp_{worker}_79") is not None


def test_workers_share_the_limit_without_a_lock(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(partial(write, tmp_path), range(3)))

    assert sum(file.stat().st_size for file in files(tmp_path)) <= 120_000


@pytest.mark.parametrize("text", ["1.50", "12345678901234567890123", '"\\ud800"', "1e400"])
def test_what_was_stored_keeps_its_spelling(tmp_path: Path, text: str) -> None:
    arguments = json_text.loads(text) if text.startswith('"') else json_text.read_odd(text.encode())
    response = {"id": "resp_1", "output": [{"arguments": arguments}]}
    store(tmp_path).put("me", StoredResponse(response=response, input=[]))

    found = store(tmp_path).get("me", "resp_1")

    assert found is not None
    assert json_text.dumps(found.response["output"]) == b'[{"arguments":%b}]' % text.encode()

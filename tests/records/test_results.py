"""Results of `berth bench` as files."""

from dataclasses import replace
from pathlib import Path

from berth.records import results
from tests.bench.results_of import engine, standard


def test_result_is_kept_with_a_number_and_read_again(tmp_path: Path) -> None:
    kept = [results.keep(str(tmp_path), replace(standard(), id=0), lambda one: f"page {one.id}") for _ in range(2)]
    assert [one.id for one in kept] == [1, 2]
    assert results.all_of(str(tmp_path)) == kept
    assert results.path(str(tmp_path), 2).with_suffix(".html").read_text() == "page 2"
    assert kept[0].valid


def test_the_last_twenty_are_kept(tmp_path: Path) -> None:
    small = replace(standard(), engines=(engine("chat-vllm", 1.0, starts=()),))
    for _ in range(results.KEPT + 3):
        results.keep(str(tmp_path), small, lambda _one: "")
    assert results.numbers(str(tmp_path)) == list(range(4, results.KEPT + 4))
    assert len(list(results.folder(str(tmp_path)).iterdir())) == 2 * results.KEPT
    assert results.remove(str(tmp_path), 4)
    assert not results.remove(str(tmp_path), 4)


def test_what_cannot_be_read_is_not_there_and_stays(tmp_path: Path) -> None:
    assert results.all_of(str(tmp_path)) == []
    results.keep(str(tmp_path), standard(), lambda _one: "")
    folder = results.folder(str(tmp_path))
    newer = results.path(str(tmp_path), 1).read_bytes().replace(b'"version":1,', b'"version":2,', 1)
    for number, content in ((2, b"{"), (3, newer), (4, b"[" * 100_000)):
        (folder / f"{number}.json").write_bytes(content)
    (folder / "notes.json").write_text("{}")
    assert [one.id for one in results.all_of(str(tmp_path))] == [1]
    assert results.read(str(tmp_path), 9) is None
    assert sorted(path.name for path in folder.glob("*.json")) == ["1.json", "2.json", "3.json", "4.json", "notes.json"]

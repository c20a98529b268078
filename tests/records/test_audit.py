import logging
from pathlib import Path

import pytest

from berth.records import audit
from berth.records.audit import Entry


def entry(number: int, size: int = 0) -> Entry:
    return Entry(t=number, who="shell uid=0", what="unload", target="m", result="accepted", details={"x": "y" * size})


def test_entries_are_read_back_the_newest_last(tmp_path: Path) -> None:
    data_dir = str(tmp_path)
    assert audit.last(data_dir, 5) == []
    for number in range(4):
        audit.append(data_dir, entry(number))
    with audit.path(data_dir).open("ab") as file:
        file.write(b'{"v":9,"t":1,"who":"","what":"","result":""}\nno json\n\xff\n')

    assert audit.last(data_dir, 2) == [entry(2), entry(3)]
    assert audit.last(data_dir, 0) == []
    assert audit.path(data_dir).stat().st_mode & 0o777 == 0o600


def test_the_oldest_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_BYTES", 1000)
    for number in range(audit.FILES + 3):
        audit.append(str(tmp_path), entry(number, size=800))

    names = sorted(path.name for path in audit.path(str(tmp_path)).parent.iterdir())
    assert names == ["audit.jsonl", *(f"audit.jsonl.{number}" for number in range(1, audit.FILES))]
    assert [one.t for one in audit.last(str(tmp_path), 100)] == [3, 4, 5, 6, 7]


def test_the_log_shows_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "berth"):
        audit.report(entry(1))

    fields = {"who": "shell uid=0", "what": "unload", "target": "m", "result": "accepted", "x": ""}
    assert caplog.records[0].__dict__["fields"] == {name: value for name, value in fields.items() if value}

"""The block below the log: what it shows, and that the log stays whole above it."""

import json
import os
import pty
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from berth.boot.foreground import start_block
from berth.boot.foreground.start_block import BlockWriter, has_terminal, lines


def one(name: str, status: str = "starting", **fields: Any) -> dict[str, Any]:
    return {"name": name, "status": status, "since": 100.0, "progress": None, "expected_s": None, **fields}


def test_a_line_for_each_engine_that_is_starting() -> None:
    state = {
        "replicas": [
            one("chat-vllm", progress={"phase": "load", "percent": 62.0}, expected_s=66.0),
            one("embed", "waiting"),
            one("old", "ready"),
            one("gone", "failed"),
            one("tts", "waking", progress={"phase": "compile", "percent": None}),
        ]
    }
    assert lines(state, 141.0) == [
        "  chat-vllm  load      [############........]  62 %  41 s, about 25 s left",
        "  embed      waiting" + " " * 33 + "41 s",
        "  tts        compile" + " " * 33 + "41 s",
    ]


def test_no_block_when_nothing_is_starting() -> None:
    assert lines({"replicas": [one("chat", "ready")]}, 1.0) == []


def test_a_start_that_takes_longer_than_the_last_one_has_no_time_left() -> None:
    assert lines({"replicas": [one("chat", expected_s=10.0)]}, 141.0)[0].endswith(" 41 s")


def test_a_download_has_its_size_and_its_own_time_left_at_a_first_start() -> None:
    sizes = {"phase": "download", "percent": 25.0, "done_bytes": 4 << 30, "total_bytes": 16 << 30}
    (line,) = lines({"replicas": [one("chat", progress=sizes)]}, 141.0)
    assert line.endswith("]  25 %  4.0/16.0 GiB, 41 s, about 2 min left of the download")


def test_each_phase_counts_with_what_it_takes() -> None:
    phases = {"load": 20.0, "compile": 200.0}
    (line,) = lines({"replicas": [one("chat", expected_s=220.0, expected_phases=phases)]}, 110.0)
    assert line.endswith(" 10 s, about 4 min left")
    loading = {"phase": "load", "percent": 50.0}
    (line,) = lines({"replicas": [one("chat", progress=loading, expected_s=220.0, expected_phases=phases)]}, 190.0)
    assert line.endswith(" 90 s, about 4 min left")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


class Screen:
    """As much of a terminal as is needed: it moves up, and erases what is below."""

    def __init__(self, data: str) -> None:
        self.lines = [""]
        for part in re.split(r"\033\[(\d+)A\r\033\[J", data.replace("\r\n", "\n")):
            if part.isdigit():
                del self.lines[-int(part) :]
                self.lines[-1] = ""
            else:
                first, *others = part.split("\n")
                self.lines[-1] += first
                self.lines += others


def test_log_scrolls_above_the_block(
    terminal: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_block, "_LOOK_S", 0.0)
    monkeypatch.setattr(os, "get_terminal_size", lambda _descriptor: os.terminal_size((60, 24)))
    state = tmp_path / "state.json"
    output = BlockWriter(terminal[1], lambda lost: f"{lost}", state)
    output.put("first\n")
    state.write_text(json.dumps({"replicas": [one("a"), one("b", progress={"phase": "load", "percent": 5})]}))
    output.put("")
    output.put("second\nthird\n")
    state.write_text("{")  # is being written
    output.put("fourth\n")
    state.write_text(json.dumps({"replicas": [one("a", "ready"), one("b")]}))
    output.put("")
    output.close()
    data = b""
    while b"fourth" not in data or not data.endswith(b"\033[J"):  # the block is erased at the end
        data += os.read(terminal[0], 65536)
    seen = Screen(data.decode())
    assert [line.split()[0] for line in seen.lines if line] == ["first", "second", "third", "fourth"]
    assert all(len(line) < 60 for line in seen.lines)


def test_block_stands_below_the_log(terminal: tuple[int, int], tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text(json.dumps({"replicas": [one("a")]}))
    output = BlockWriter(terminal[1], lambda lost: f"{lost}", state)
    output.put("first\n")
    data = b""
    while b"starting" not in data:
        data += os.read(terminal[0], 65536)
    assert data.startswith(b"first\r\n  a")
    output.close()


def test_only_terminals_that_can_erase() -> None:
    ours, theirs = pty.openpty()
    reader, writer = os.pipe()
    assert has_terminal(theirs, "xterm")
    assert not has_terminal(theirs, "dumb")
    assert not has_terminal(theirs, "")
    assert not has_terminal(writer, "xterm")
    for end in (ours, theirs, reader, writer):
        os.close(end)

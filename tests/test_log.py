"""An event is one line, in text and in JSON."""

import errno
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from berth.log import PIPE_BYTES, configure, fatal_lines, foreign_line, log


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "control | ready"),
        ({"replica": "chat-vllm", "pid": 7}, "control | ready replica=chat-vllm pid=7"),
        ({"after_s": 21.449, "share": 0.123456}, "control | ready after_s=21.4 share=0.123"),
        ({"reason": 'a "b"\nc'}, 'control | ready reason="a \\"b\\"\\nc"'),
        ({"reason": ""}, 'control | ready reason=""'),
        ({"ok": True, "why": None}, "control | ready ok=True why=None"),
        ({"text": "lone \ud800 surrogate"}, 'control | ready text="lone ? surrogate"'),
    ],
)
def test_text_lines(fields: dict[str, str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(program="control")
    log.info("ready", **fields)
    assert capsys.readouterr().out.split(" ", 1)[1] == line + "\n"


def test_a_level_other_than_info_is_named_and_line_feeds_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    configure(program="router")
    log.warning("two\nlines")
    log.error("bad")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["router | warning: two\\nlines", "router | error: bad"]


def test_json_lines_carry_the_fields_and_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure(program="router", log_format="json")
    try:
        int("x")
    except ValueError:
        log.exception("failed", attempt=2)
    line = json.loads(capsys.readouterr().out)
    assert (line["program"], line["level"], line["event"], line["attempt"]) == ("router", "error", "failed", 2)
    assert "ValueError" in line["traceback"]


def test_json_lines_stay_json_whatever_the_values(capsys: pytest.CaptureFixture[str]) -> None:
    configure(program="router", log_format="json")
    log.info("odd \ud800", name="a\ud800b")
    assert json.loads(capsys.readouterr().out)["name"] == "a?b"


class FullDisk(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []

    def write(self, text: str, /) -> int:
        self.refused.append(text)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_behind_stdout_loses_the_line_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", disk := FullDisk())
    configure(program="router")
    log.info("lost")
    assert [line.endswith("router | lost\n") for line in disk.refused] == [True]
    assert capsys.readouterr().err == ""


def test_the_level_decides(capsys: pytest.CaptureFixture[str]) -> None:
    configure(program="router", level="warning")
    log.info("quiet")
    log.debug("quieter")
    assert capsys.readouterr().out == ""
    assert not logging.getLogger("berth").propagate


def test_what_looks_like_a_secret_is_taken_out(capsys: pytest.CaptureFixture[str]) -> None:
    for log_format in ("text", "json"):
        configure(program="router", log_format=log_format)
        log.warning("refused hf_abcdefghijkl", header="Bearer abcdefghijkl")
    told = capsys.readouterr().out
    assert "abcdefghijkl" not in told
    assert told.count("Bearer ***") == 2


def test_libraries_warnings_are_events_with_the_name_of_their_logger(capsys: pytest.CaptureFixture[str]) -> None:
    configure(program="control")
    logging.getLogger("asyncio").error("Task exception\nwas never retrieved")
    logging.getLogger("httpx").info("too much")
    line = capsys.readouterr().out
    assert line.split(" ", 1)[1] == "control | error: Task exception\\nwas never retrieved logger=asyncio\n"


@pytest.mark.parametrize("text", ["x" * 10_000, "é\n" * 5000, "\x01" * 3000, "\U0001f98a" * 3000])
def test_a_long_event_comes_in_parts_that_a_pipe_takes_at_once(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(program="router", log_format="json")
    log.error("engine said", reason=text)
    lines = capsys.readouterr().out.splitlines(keepends=True)
    parts = [json.loads(line) for line in lines]
    assert max(len(line.encode()) for line in lines) <= PIPE_BYTES
    assert [part["part"] for part in parts] == [f"{n}/{len(parts)}" for n in range(1, len(parts) + 1)]
    assert {part["event"] for part in parts} == {"engine said"}
    told = "".join(part["text"] for part in parts)
    assert told in {f"engine said reason={text}", f"engine said reason={json.dumps(text, ensure_ascii=False)}"}


def test_the_parts_of_a_text_line_are_numbered(capsys: pytest.CaptureFixture[str]) -> None:
    configure(program="router")
    log.error("bad", reason="x" * 5000)
    first, second = capsys.readouterr().out.splitlines()
    assert " router | error: [1/2] bad reason=xxx" in first
    assert " router | error: [2/2] xxx" in second


WRITER = """
import sys
from berth.log import configure, log
configure(program=sys.argv[1], log_format="json")
for number in range(30):
    log.info("line", number=number, text=sys.argv[1] * (10_000 if number % 3 else 100_000))
"""


def test_lines_of_several_programs_on_one_pipe_do_not_mix() -> None:
    names = "WXYZ"
    reader, writer = os.pipe()
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name], stdout=writer) for name in names]
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as lines:
        parts = [json.loads(line) for line in lines]
    assert [process.wait() for process in writers] == [0] * len(names)
    for name in names:
        told = [part["text"] for part in parts if part["program"] == name]
        assert "".join(told).count(name) == 10 * 100_000 + 20 * 10_000


def test_lines_of_others_get_a_time_and_a_name() -> None:
    assert foreign_line("chat", "INFO up", "text", 0.0, "info").split(" ", 1)[1] == "chat | INFO up\n"
    assert json.loads(foreign_line("chat", "INFO up", "json", 0.0, "info")) == {
        "time": "1970-01-01T00:00:00.000+00:00", "level": "info", "program": "chat", "line": "INFO up",
    }  # fmt: skip
    assert "level" not in json.loads(foreign_line("chat", "hello", "json", 0.0))


def test_why_a_program_does_not_start_is_text_for_people_or_one_event_per_line() -> None:
    assert fatal_lines("boot", "A: bad\nB: bad", 78, "text", 0.0) == "berth boot: A: bad\nB: bad\n"
    lines = [json.loads(line) for line in fatal_lines("boot", "A: bad\n\nB: bad", 78, "json", 0.0).splitlines()]
    assert [(line["event"], line["exit_code"], line["level"]) for line in lines] == [
        ("A: bad", 78, "critical"),
        ("B: bad", 78, "critical"),
    ]


SPEAKER = """
import asyncio, pathlib, sys, warnings
from berth.log import configure, log
configure(program="control", log_format="json", channel=pathlib.Path(sys.argv[1]))
log.info("ready")
warnings.warn("old\\nfashioned")
sys.stderr.write("raw\\n")
raise ValueError("nobody catches this")
"""


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "channel"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    yield path, reader
    os.close(reader)


def speak(path: Path) -> str:
    """What comes on standard output in spite of the channel."""
    done = subprocess.run([sys.executable, "-c", SPEAKER, path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stdout + done.stderr


def test_all_that_a_program_says_comes_through_its_channel(channel: tuple[Path, int]) -> None:
    path, reader = channel
    assert speak(path) == ""
    ready, warned, raw, ended = os.read(reader, 65536).decode().splitlines()
    assert json.loads(ready)["event"] == "ready"
    assert "old\nfashioned" in json.loads(warned)["event"]
    assert raw == "raw"
    assert "nobody catches this" in json.loads(ended)["traceback"]
    assert json.loads(ended)["level"] == "critical"


@pytest.mark.parametrize("there", ["a file", "a FIFO that nobody reads", "nothing"])
def test_where_nobody_listens_standard_output_is_used(tmp_path: Path, there: str) -> None:
    path = tmp_path / "channel"
    if there == "a file":
        path.touch()
    elif there != "nothing":
        os.mkfifo(path)
    told = speak(path)
    assert '"event":"ready"' in told
    assert "nobody catches this" in told

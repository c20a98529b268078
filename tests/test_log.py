"""An event is one line, in text and in JSON."""

import errno
import io
import json
import logging
import os
import sys

import pytest

from berth.log import configure, log


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
    def write(self, _text: str, /) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_behind_stdout_loses_the_line_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", FullDisk())
    configure(program="router")
    log.info("lost")


def test_the_level_decides(capsys: pytest.CaptureFixture[str]) -> None:
    configure(program="router", level="warning")
    log.info("quiet")
    log.debug("quieter")
    assert capsys.readouterr().out == ""
    assert not logging.getLogger("berth").propagate

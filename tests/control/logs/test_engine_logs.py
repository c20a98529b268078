"""Engine logs on standard output, and `berth logs`."""

import asyncio
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from berth.control.logs.engine_logs import Follower, Output, Reader, show
from berth.errors import ControlError
from berth.plan import Launch, RunPaths
from tests.fakes.plans import make_plan, make_replica


def full_disk(_text: str) -> None:
    raise OSError(28, "No space left on device")


def timeless(text: str) -> str:
    return re.sub(r"(?m)^\d\d:\d\d:\d\d ", "", text)


def last_lines(path: Path, count: int) -> list[str]:
    reader = Reader(path, "")
    lines = [line.rstrip("\n") for line in reader.last_lines(count)]
    reader.tail.close()
    return lines


def test_writes_lines_with_the_replica() -> None:
    shown: list[str] = []
    Output("text", shown.append).write("chat-a", ["one", "two"])
    Output("text", shown.append).write("chat-a", [])
    assert [timeless(text) for text in shown] == ["chat-a | one\nchat-a | two\n"]
    assert shown[0][:9] != "chat-a | "


def test_writes_json_lines() -> None:
    shown: list[str] = []
    Output("json", shown.append).write("chat-a", ['ERROR "hi"', "hello"])
    error, hello = (orjson.loads(line) for line in shown[0].splitlines())
    assert (error["program"], error["line"], error["level"]) == ("chat-a", 'ERROR "hi"', "error")
    assert set(hello) == {"time", "program", "line"}


def test_writes_to_standard_output_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    Output("text").write("chat-a", ["one"])
    assert timeless(capsys.readouterr().out) == "chat-a | one\n"


def test_reports_a_full_disk_once(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("text", full_disk)
    output.write("chat-a", ["one"])
    output.write("chat-a", ["two"])
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_lines_are_lost_without_error_when_stderr_is_broken_too(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def write(text: str) -> int:
        tried.append(text)
        raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=write))
    Output("text", write).write("chat-a", ["one"])
    line, report = tried
    assert timeless(line) == "chat-a | one\n"
    assert "cannot write engine logs" in report


@pytest.mark.anyio
async def test_follower_writes_keeps_and_hands_on_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    shown: list[str] = []
    received: list[str] = []
    got_it = asyncio.Event()

    def receive(line: str) -> None:
        received.append(line)
        if line == "end":
            got_it.set()

    follower = Follower(path, "chat-a", Output("text", shown.append), receive)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follower.follow(0.01))
        path.write_bytes(b"x: 1%|\rx: 2%|\rend\nlast line")
        await got_it.wait()
        following.cancel()
    follower.close()
    assert received == ["x: 1%|", "x: 2%|", "end", "last line"]
    assert timeless("".join(shown)) == "chat-a | x: 1%|\nchat-a | end\nchat-a | last line\n"
    assert list(follower.recent) == ["end", "last line"]
    follower.restart()
    assert not follower.recent


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    plan = make_plan(str(tmp_path), *(make_replica(name, launch=Launch(argv=("x",))) for name in ("chat-a", "chat-b")))
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.logs.mkdir()
    plan.paths.replica_log("chat-a").write_text("a1\na2\nx: 1%|\rx: 2%|\na3\n")
    (plan.paths.logs / "supervisord.log").write_text("not an engine's\n")
    return plan.paths


def test_last_lines_include_rotated_files(paths: RunPaths) -> None:
    paths.replica_log("chat-a").with_name("chat-a.log.1").write_text("a0\n")
    assert last_lines(paths.replica_log("chat-a"), 100) == ["a0", "a1", "a2", "x: 1%|", "a3"]
    assert last_lines(paths.replica_log("chat-a"), 2) == ["x: 1%|", "a3"]
    assert last_lines(paths.replica_log("chat-a"), -1) == []


def test_several_logs_are_prefixed_with_names(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(paths, "chat-a", lines=1, follow=False) == 0
    paths.replica_log("chat-b").write_text("b1\n")
    assert show(paths, None, lines=1, follow=False) == 0
    assert capsys.readouterr().out == "a3\nchat-a | a3\nchat-b | b1\n"


def test_follows_until_interrupted(
    paths: RunPaths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt
        with paths.replica_log("chat-a").open("a") as log:
            log.write(f"news {len(pauses)}\n")

    monkeypatch.setattr(time, "sleep", pause)
    with pytest.raises(KeyboardInterrupt):
        show(paths, None, lines=0, follow=True, poll_s=0.5)
    assert capsys.readouterr().out == "chat-a | news 1\nchat-a | news 2\n"
    assert pauses == [0.5] * 3


@pytest.mark.parametrize(("replica", "message"), [("chat-x", "no log of 'chat-x' in"), ("chat-b", "known: chat-a")])
def test_unknown_replica_is_an_error(paths: RunPaths, replica: str, message: str) -> None:
    with pytest.raises(ControlError, match=message):
        show(paths, replica, lines=1, follow=False)


def test_missing_logs_are_an_error(paths: RunPaths) -> None:
    paths.replica_log("chat-a").unlink()
    with pytest.raises(ControlError, match="known: none yet"):
        show(paths, None, lines=1, follow=False)


def test_missing_plan_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="Start Berth, or set BERTH_RUN_DIR"):
        show(RunPaths(run_dir=str(tmp_path), data_dir=""), None, lines=1, follow=False)

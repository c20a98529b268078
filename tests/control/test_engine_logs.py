"""Engines' logs on standard output, and `berth logs`."""

import asyncio
import re
import time
from pathlib import Path

import orjson
import pytest

from berth.control.engine_logs import Follower, Output, Reader, show
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


def test_lines_are_shown_with_their_replica() -> None:
    shown: list[str] = []
    Output("text", shown.append).show("chat-a", ["one", "two"])
    Output("text", shown.append).show("chat-a", [])
    assert [timeless(text) for text in shown] == ["chat-a | one\nchat-a | two\n"]
    assert shown[0][:9] != "chat-a | "


def test_lines_are_json_where_json_is_wanted() -> None:
    shown: list[str] = []
    Output("json", shown.append).show("chat-a", ['ERROR "hi"', "hello"])
    error, hello = (orjson.loads(line) for line in shown[0].splitlines())
    assert (error["program"], error["line"], error["level"]) == ("chat-a", 'ERROR "hi"', "error")
    assert set(hello) == {"time", "program", "line"}


def test_standard_output_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    Output("text").show("chat-a", ["one"])
    assert timeless(capsys.readouterr().out) == "chat-a | one\n"


def test_a_full_disk_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("text", full_disk)
    output.show("chat-a", ["one"])
    output.show("chat-a", ["two"])
    assert capsys.readouterr().err.count("No space left on device") == 1


@pytest.mark.anyio
async def test_a_log_is_followed_shown_and_heard(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    shown: list[str] = []
    heard: list[str] = []
    got_it = asyncio.Event()

    def hear(line: str) -> None:
        heard.append(line)
        if line == "end":
            got_it.set()

    follower = Follower(path, "chat-a", Output("text", shown.append), hear)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follower.follow(0.01))
        path.write_bytes(b"x: 1%|\rx: 2%|\rend\nlast words")
        await got_it.wait()
        following.cancel()
    follower.close()
    assert heard == ["x: 1%|", "x: 2%|", "end", "last words"]
    assert timeless("".join(shown)) == "chat-a | x: 1%|\nchat-a | end\nchat-a | last words\n"
    assert list(follower.recent) == ["end", "last words"]
    follower.begin()
    assert not follower.recent


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    plan = make_plan(str(tmp_path), *(make_replica(name, launch=Launch(argv=("x",))) for name in ("chat-a", "chat-b")))
    plan.paths.plan.write_bytes(plan.to_json())
    plan.paths.logs.mkdir()
    plan.paths.replica_log("chat-a").write_text("a1\na2\nx: 1%|\rx: 2%|\na3\n")
    (plan.paths.logs / "supervisord.log").write_text("not an engine's\n")
    return plan.paths


def test_the_last_lines_come_from_rotated_files_too(paths: RunPaths) -> None:
    paths.replica_log("chat-a").with_name("chat-a.log.1").write_text("a0\n")
    assert last_lines(paths.replica_log("chat-a"), 100) == ["a0", "a1", "a2", "x: 1%|", "a3"]
    assert last_lines(paths.replica_log("chat-a"), 2) == ["x: 1%|", "a3"]
    assert last_lines(paths.replica_log("chat-a"), -1) == []


def test_one_log_is_shown_plain_and_several_with_names(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(paths, "chat-a", lines=1, follow=False) == 0
    paths.replica_log("chat-b").write_text("b1\n")
    assert show(paths, None, lines=1, follow=False) == 0
    assert capsys.readouterr().out == "a3\nchat-a | a3\nchat-b | b1\n"


def test_followed_logs_go_on_until_the_operator_has_enough(
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


@pytest.mark.parametrize(("replica", "told"), [("chat-x", "no log of 'chat-x' in"), ("chat-b", "There are: chat-a")])
def test_a_log_that_is_not_there_is_named(paths: RunPaths, replica: str, told: str) -> None:
    with pytest.raises(ControlError, match=told):
        show(paths, replica, lines=1, follow=False)


def test_without_any_log_that_is_said(paths: RunPaths) -> None:
    paths.replica_log("chat-a").unlink()
    with pytest.raises(ControlError, match="There are: none yet"):
        show(paths, None, lines=1, follow=False)


def test_without_a_plan_the_next_step_is_said(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="Start Berth, or set BERTH_RUN_DIR"):
        show(RunPaths(run_dir=str(tmp_path), data_dir=""), None, lines=1, follow=False)

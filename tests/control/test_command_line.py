"""The operator's commands against a control that runs: what they print, and their exit codes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from berth.cli.main import main
from berth.errors import ControlError
from berth.plan import Keys, RunPaths
from berth.report.parts import Box, metrics, operations
from berth.state import ReplicaStatus
from tests.control.harness import appliance, engine, plan_of
from tests.fakes.ports import free_port

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, kw_only=True)
class Shell:
    """In this process, beside control: a command runs in a thread."""

    capsys: pytest.CaptureFixture[str]

    async def run(self, *words: str) -> tuple[object, str]:
        """The exit code, and what it printed."""

        def command() -> object:
            with pytest.raises(SystemExit) as end:
                main(words)
            return end.value.code

        self.capsys.readouterr()
        code = await asyncio.to_thread(command)
        printed = self.capsys.readouterr()
        return code, printed.out + printed.err


@pytest.fixture
async def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shell]:
    """One that can reach a box with one replica that is ready."""
    plan = plan_of(tmp_path, engine(tmp_path, "chat-a"))
    plan = replace(plan, listen=replace(plan.listen, port=free_port()))  # on which no router of another Berth listens
    monkeypatch.setenv("BERTH_RUN_DIR", str(tmp_path))
    async with appliance(plan) as box, box.control():
        await box.until_status("chat-a", ReplicaStatus.READY)
        yield Shell(capsys=capsys)


async def test_an_operation_is_shown_and_cannot_be_cancelled_once_it_is_over(shell: Shell) -> None:
    code, shown = await shell.run("pin", "chat", "--wait", "20")
    assert (code, shown.split()[-3:]) == (0, ["pin", "chat", "done"]), shown
    number = shown.split()[-4]

    code, shown = await shell.run("operations")
    assert code == 0
    assert re.search(rf"{number} pin chat  done\n.*chat pinned by the command line at ", shown), shown
    code, shown = await shell.run("operations", number, "--json")
    assert (code, json.loads(shown)["operation"]["state"]) == (0, "done")
    code, shown = await shell.run("cancel", number)
    assert (code, number in shown) == (4, True), shown
    code, shown = await shell.run("cancel", "nothing")
    assert (code, shown.startswith("berth: denied (")) == (4, True), shown


async def test_a_reload_without_a_router_fails_with_the_reason(shell: Shell) -> None:
    code, shown = await shell.run("reload", "--wait", "20")
    assert (code, "reload  failed: " in shown, "router" in shown) == (1, True, True), shown


async def test_what_would_move_is_shown_and_does_not(shell: Shell) -> None:
    code, shown = await shell.run("restart", "chat", "--dry-run")
    assert (code, "chat-a: ready -> " in shown) == (0, True), shown
    code, shown = await shell.run("load", "chat", "--dry-run")
    assert (code, shown) == (0, "nothing would change\n")
    assert "restart" not in (await shell.run("operations"))[1]


async def test_a_model_that_does_not_exist_is_named_with_those_that_do(shell: Shell) -> None:
    code, shown = await shell.run("unload", "chatt")
    assert code == 4
    assert "'chatt'" in shown
    assert "chat" in shown.partition("'chatt'")[2]


async def test_events_are_shown_in_order(shell: Shell) -> None:
    await shell.run("pin", "chat", "--wait", "20")
    await shell.run("unpin", "chat", "--wait", "20")
    code, shown = await shell.run("events")
    assert code == 0
    places = [
        shown.index(text) for text in ("chat-a  starting -> ready", "  pin  running", "  pin  done", "  unpin  done")
    ]
    assert places == sorted(places), shown
    code, shown = await shell.run("events", "--json")
    numbers = [json.loads(line)["id"] for line in shown.splitlines()]
    assert numbers == sorted(set(numbers))


async def test_adapters_and_migrations_of_a_box_without_any(shell: Shell) -> None:
    assert await shell.run("adapters", "chat") == (0, "no adapters were added\n")
    code, shown = await shell.run("migrations")
    assert (code, "no migrations" in shown) == (0, True), shown
    code, shown = await shell.run("migration", "77")
    assert (code, "'77'" in shown) == (4, True), shown
    code, shown = await shell.run("migration", "77", "pause")
    assert (code, "'77'" in shown) == (4, True), shown


async def test_a_capture_from_its_start_to_its_end(shell: Shell) -> None:
    """Without a router: nothing is captured, and no worker is waited for."""
    assert await shell.run("capture", "list") == (0, "nothing is being captured\nno requests so far\n")
    code, shown = await shell.run("capture", "on", "--model", "chat", "--for", "5m")
    assert (code, shown.startswith("capturing "), "chat" in shown) == (0, True, True), shown
    code, shown = await shell.run("capture", "list", "--json")
    assert (code, json.loads(shown)["current"]["model"]) == (0, "chat")
    code, shown = await shell.run("capture", "show", "nothing")
    assert code == 4, shown
    code, shown = await shell.run("capture", "off")
    assert (code, shown.splitlines()[0]) == (0, "nothing is being captured")
    assert (await shell.run("audit"))[1].count("  capture ") == 3


async def test_a_report_has_the_operations_and_says_what_it_could_not_ask(shell: Shell, tmp_path: Path) -> None:
    await shell.run("pin", "chat", "--wait", "20")
    box = Box(environ={}, paths=RunPaths(run_dir=str(tmp_path), data_dir=""), engine_home="", keys=Keys())
    replies, events = json.loads(await asyncio.to_thread(operations, box))
    assert [one["action"] for one in replies["operations"]] == ["pin"]
    assert "pin" in [one["subject"] for one in events["events"]]
    with pytest.raises(ControlError, match="the router does not respond at http"):
        metrics(box)


async def test_what_serves_the_model_and_who_used_it(shell: Shell) -> None:
    assert (await shell.run("revisions"))[0] == 0
    assert (await shell.run("usage"))[0] == 0
    code, shown = await shell.run("status", "--json")
    assert (code, json.loads(shown)["models"][0]["name"], '"ready"' in shown) == (0, "chat", True)


def test_nothing_is_changed_where_nothing_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTH_RUN_DIR", str(tmp_path))
    for words in (("load", "chat"), ("operations",), ("capture", "list"), ("events",), ("migrations",)):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 69, words
        assert "cannot be read" in capsys.readouterr().err

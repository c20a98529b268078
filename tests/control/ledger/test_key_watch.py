"""Keys that change while Berth runs: published when the file is right, and only then."""

import asyncio
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from berth.boot.config.api_keys import parse_api_keys
from berth.control.ledger import key_watch
from berth.control.ledger.key_watch import KeyWatch, write_keys
from berth.ipc.key_poll import KeyPoll
from berth.plan import Keys, Plan, read_keys
from berth.processes import replace_file
from tests.fakes.plans import GPU_PLAN

pytestmark = pytest.mark.anyio

Watched = tuple[KeyWatch, Plan, Path]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    file = tmp_path / "keys"
    file.write_text("alice: {key: a}\nbob: {key: b}\n")
    paths = replace(GPU_PLAN.paths, run_dir=str(tmp_path))
    plan = replace(GPU_PLAN, paths=paths, keys_file=str(file), limits=replace(GPU_PLAN.limits, key_slots=4))
    keys = Keys(api_keys=parse_api_keys(file.read_text()), upstream_keys={"chat-vllm": "k"})
    replace_file(plan.paths.plan, plan.to_json())
    write_keys(plan, keys)
    return KeyWatch(plan, keys), plan, file


def names(plan: Plan) -> list[tuple[str, int]]:
    return [(key.name, key.slot) for key in read_keys(plan.paths.run_dir).api_keys]


async def test_changes_are_published_and_named(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watch, plan, file = watched
    poll = KeyPoll(plan, read_keys(plan.paths.run_dir))
    assert (poll.watches, poll.changed(), poll.changed()) == (True, True, False)
    file.write_text("bob: {key: b, share: 2}\ncarol: {key: c}\n")
    with caplog.at_level(logging.INFO, "berth"):
        await watch.look()

    assert names(plan) == [("bob", 2), ("carol", 3)]
    assert caplog.records[0].__dict__["fields"] == {"added": "carol", "removed": "alice", "other": "bob"}
    assert poll.changed()
    assert (poll.current.retired, poll.current.upstream_keys) == ({"alice": 1}, {"chat-vllm": "k"})


async def test_a_broken_file_changes_nothing_and_is_reported(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watch, plan, file = watched
    before = plan.paths.keys.read_bytes()
    file.write_text("a: {key: a}\nb: {key: b}")
    await watch.look()
    assert "restart it for more" in watch.problem
    file.unlink()
    for _ in range(2):
        await watch.look()
    assert "cannot read the file" in watch.problem

    assert plan.paths.keys.read_bytes() == before
    assert [record.message for record in caplog.records] == 2 * ["API keys unchanged"]
    file.write_text("alice: {key: z}\n")
    os.utime(file, ns=(1, 1))  # another file, whatever the clock says
    await watch.look()
    assert (names(plan), watch.problem) == ([("alice", 1)], "")


async def test_a_reading_that_takes_too_long_is_ended(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, plan, _ = watched
    before = plan.paths.keys.read_bytes()
    monkeypatch.setattr(key_watch, "READ_TIMEOUT_S", 0.0)
    running = asyncio.create_task(watch.run())
    async with asyncio.timeout(20):
        while not watch.problem:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
    running.cancel()

    assert plan.paths.keys.read_bytes() == before


def test_a_worker_keeps_its_keys_while_there_are_no_others(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    _, plan, _ = watched
    poll = KeyPoll(plan, read_keys(plan.paths.run_dir))
    plan.paths.keys.write_text("{")
    assert not poll.changed()
    plan.paths.keys.unlink()
    assert not poll.changed()

    assert [key.name for key in poll.current.api_keys] == ["alice", "bob"]
    said = [record.message for record in caplog.records if record.name == "berth"]  # not asyncio, of an earlier test
    assert said == ["API keys unchanged"]

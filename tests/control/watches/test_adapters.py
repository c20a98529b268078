"""Adapters that come and go in a folder, while they are copied, broken, renamed and replaced."""

import asyncio
import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from berth.control.decisions.records import Observation, Record, Timing
from berth.control.operations.adapters import ask
from berth.control.operations.commands import adapter_lines
from berth.control.runtime import Runtime
from berth.control.supervisord_client import SupervisordClient
from berth.control.watches.adapters import AdapterWatch, Found, digest_of, judged
from berth.host.gpu_usage import Gpus
from berth.ipc.operations import AdapterChange, DenialCode
from berth.plan import Adapter, Launch, Restarts
from berth.state import ReplicaStatus
from tests.fakes.plans import make_plan, make_replica

pytestmark = pytest.mark.anyio
HEADER = json.dumps({"__metadata__": {}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
WEIGHTS = struct.pack("<Q", len(HEADER)) + HEADER + bytes(8)
SETTLES_S = Timing().adapter_settles_s


class World:
    def __init__(self, root: Path, slots: int = 3) -> None:
        self.folder = root / "adapters"
        self.folder.mkdir()
        plan = make_plan(str(root), make_replica("r", launch=Launch(argv=("x",))))
        self.route = replace(
            plan.models[0], aliases=("gpt",), adapter_slots=slots, adapter_rank=16, adapter_folder=str(self.folder)
        )
        self.plan = replace(plan, models=(self.route,))
        self.runtime = Runtime(
            plan=self.plan,
            timing=replace(Timing(), adapter_poll_s=0.01),
            supervisord=SupervisordClient(plan.paths.supervisord_socket),
            gpus=Gpus([]),
            records={},
            followers={},
        )
        self.operations = self.runtime.operations
        self.changes, self.now = 0, 100.0
        self.watch = self.new_watch()

    def new_watch(self) -> AdapterWatch:
        return AdapterWatch(self.runtime, self.observation)

    def observation(self) -> Observation:
        record = Record(replica=self.plan.replicas[0], status=ReplicaStatus.READY, since=0)
        return Observation(
            records=(record,), processes={}, failures={}, routes=self.plan.models, restarts=Restarts(failures=3)
        )

    def put(self, name: str, *, rank: int = 8, weights: bytes | None = WEIGHTS, at: str = "", **config: object) -> Path:
        folder = Path(at) if at else self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps({"r": rank, **config}))
        if weights is not None:
            (folder / "adapter_model.safetensors").write_bytes(weights)
        return folder

    async def looks(self, count: int = 2, seconds: float = 2.0) -> None:
        for _ in range(count):
            self.now += seconds
            await self.watch.look(self.route, self.now)
            self.changes += self.runtime.changed.is_set()
            self.runtime.changed.clear()

    def added(self) -> list[str]:
        return [one.name for one in self.operations.kept.adapters.get("chat", ())]

    def ignored(self) -> dict[str, str]:
        return {one.name: one.problem for one in self.watch.ignored("gpt")}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


async def test_adapters_come_and_go_with_their_folders(world: World) -> None:
    law = world.put("law")
    await world.looks(1)
    assert world.added() == []
    await world.looks(1)
    assert world.operations.kept.adapters == {
        "chat": (Adapter(name="law", source=str(law), rank=8, weights_bytes=len(WEIGHTS)),)
    }
    world.put("tone:v2")
    await world.looks()
    assert (world.added(), world.changes) == (["law", "tone:v2"], 2)

    remove(law)
    await world.looks(1)
    assert world.added() == ["law", "tone:v2"]
    await world.looks(1)
    assert (world.added(), world.changes, world.ignored()) == (["tone:v2"], 3, {})
    await world.looks(5)
    assert world.changes == 3


async def test_what_is_being_copied_is_waited_for(world: World) -> None:
    folder = world.folder / "law"
    folder.mkdir()
    await world.looks(3)
    world.put("law", weights=None)
    await world.looks(3)
    for length in (4, len(WEIGHTS) - 8, len(WEIGHTS) - 1):
        (folder / "adapter_model.safetensors").write_bytes(WEIGHTS[:length])
        await world.looks(3)
        assert (world.added(), world.ignored()) == ([], {})
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    await world.looks(2)
    assert world.added() == ["law"]


async def test_hidden_folders_and_files_are_none(world: World) -> None:
    world.put(".law.tmp")
    (world.folder / "readme.txt").write_text("x")
    await world.looks(3, SETTLES_S)
    assert (world.added(), world.ignored()) == ([], {})


@pytest.mark.parametrize(
    ("name", "break_it", "words"),
    [
        ("law", lambda folder: (folder / "adapter_config.json").unlink(), "it has no adapter_config.json"),
        ("law", lambda folder: (folder / "adapter_config.json").write_text("{"), "that is not a JSON object"),
        ("law", lambda folder: (folder / "adapter_config.json").write_text('{"r": 8, "use_dora": true}'), "uses DoRA"),
        ("law", lambda folder: (folder / "adapter_config.json").write_text('{"r": 64}'), "has rank 64; `adapter_rank`"),
        ("law", lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (
            "law",
            lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"),
            "incomplete, or no safetensors",
        ),
        (
            "law",
            lambda folder: (folder / "adapter_model.safetensors").write_bytes(WEIGHTS[:-1]),
            f"of {len(WEIGHTS) - 1} bytes instead of {len(WEIGHTS)}",
        ),
        ("bad name", lambda _: None, "the name of an adapter has no white space"),
        ("gpt", lambda _: None, "'gpt' is the name of a model, alias or adapter already"),
    ],
)
async def test_bad_adapter_is_named_and_the_others_are_not_disturbed(
    world: World, name: str, break_it: Callable[[Path], object], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.put("good")
    await world.looks()
    break_it(world.put(name))
    await world.looks(2)
    await world.looks(3, SETTLES_S)

    assert (world.added(), list(world.ignored())) == (["good"], [name])
    assert words in world.ignored()[name]
    assert caplog.text.count("adapter ignored") == 1
    (status,) = world.watch.ignored("chat")
    assert adapter_lines(status) == [f"{name}  {world.folder / name}  not added: {status.problem}"]
    assert world.watch.ignored("other") == ()

    remove(world.folder / name)
    await world.looks()
    assert (world.added(), world.ignored()) == (["good"], {})


async def test_bad_adapter_that_is_mended_is_added(world: World) -> None:
    folder = world.put("law", weights=b"x")
    await world.looks(3, SETTLES_S)
    assert world.ignored()
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    await world.looks()
    assert (world.added(), world.ignored()) == (["law"], {})


async def test_adapter_without_a_slot_gets_the_next_free_one(tmp_path: Path) -> None:
    world = World(tmp_path, slots=1)
    first = world.put("a")
    await world.looks()
    world.put("b")
    await world.looks(3)
    assert (world.added(), "All 1 slots of 'chat' are taken: a." in world.ignored()["b"]) == (["a"], True)
    remove(first)
    await world.looks(3)
    assert (world.added(), world.ignored()) == (["b"], {})


async def test_name_stands_for_the_same_files(world: World) -> None:
    folder = world.put("law")
    await world.looks()
    os.utime(folder / "adapter_model.safetensors", (1, 1))
    await world.looks()
    assert (world.added(), "its files have changed" in world.ignored()["law"]) == (["law"], True)

    remove(folder)
    await world.looks()
    world.put("law", rank=16)
    await world.looks()
    assert (world.added(), "its files have changed" in world.ignored()["law"]) == ([], True)


async def test_folder_that_is_renamed_away_and_back_stays(world: World) -> None:
    folder = world.put("law")
    await world.looks()
    folder.rename(world.folder / ".old")
    await world.looks(1)
    (world.folder / ".old").rename(folder)
    await world.looks(3)
    assert (world.added(), world.changes) == (["law"], 1)


async def test_nothing_is_removed_while_the_folder_is_away(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.put("law")
    await world.looks()
    away = world.folder.rename(world.folder.with_name("away"))
    await world.looks(4)
    assert (world.added(), world.ignored()) == (["law"], {"": "the folder cannot be read: No such file or directory"})
    assert caplog.text.count("adapter ignored") == 1
    away.rename(world.folder)
    await world.looks(3)
    assert (world.added(), world.ignored(), world.changes) == (["law"], {}, 1)


async def test_the_next_control_goes_on_with_what_was_there(world: World) -> None:
    folder = world.put("law")
    await world.looks()
    world.watch = world.new_watch()
    await world.looks(3)
    assert (world.added(), world.changes) == (["law"], 1)
    remove(folder)
    await world.looks(2)
    assert world.added() == []


async def test_shell_adds_others_and_removes_only_those(world: World) -> None:
    world.put("law")
    await world.looks()
    own = Adapter(name="own", source="/own", rank=8)
    for change in (AdapterChange(model="chat", add=own), AdapterChange(model="chat", remove="own")):
        reply, world.operations.kept = ask(change, world.observation(), world.operations.kept)
        assert reply.denial is None
        await world.looks(3)
    assert world.added() == ["law"]
    reply, _ = ask(AdapterChange(model="chat", remove="law"), world.observation(), world.operations.kept)
    assert reply.denial is not None
    assert (reply.denial.code, "remove its folder there" in reply.denial.message) == (DenialCode.ADAPTER, True)


async def test_folder_that_vanishes_while_it_is_looked_at_is_no_adapter(world: World) -> None:
    gone = world.folder / "law"
    digest = digest_of(gone)
    assert judged(Found(digest=digest, since=0), gone).problem == "it cannot be read: No such file or directory"
    world.put("law")
    assert digest_of(gone) != digest


async def test_older_kinds_of_weights_do_not_show_whether_they_are_complete(world: World) -> None:
    (world.put("law", weights=None) / "adapter_model.bin").write_bytes(b"x")
    await world.looks()
    assert world.added() == ["law"]


async def test_looks_by_itself(world: World) -> None:
    world.put("law")
    running = asyncio.ensure_future(world.new_watch().run())
    async with asyncio.timeout(60):
        while not world.added():  # noqa: ASYNC110 - files
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    plan = replace(world.plan, models=(replace(world.route, adapter_folder=""),))
    await AdapterWatch(replace(world.runtime, plan=plan), world.observation).run()

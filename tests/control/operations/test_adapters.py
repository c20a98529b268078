"""Which LoRA adapters may be added while a model serves."""

from dataclasses import replace

import pytest

from berth.control.decisions.records import Observation, Record
from berth.control.operations.adapters import ask
from berth.control.operations.store import Kept
from berth.ipc.operations import AdapterChange, DenialCode
from berth.plan import Adapter, Launch, ModelRoute, Restarts, Task
from berth.state import ReplicaStatus
from tests.fakes.plans import make_replica

ROUTE = ModelRoute(
    name="chat",
    aliases=("gpt",),
    source="c",
    task=Task.GENERATE,
    replicas=("r",),
    adapters=(Adapter(name="declared", source="org/x"),),
    adapter_slots=2,
    adapter_rank=16,
)
READY = Record(
    replica=make_replica("r", launch=Launch(argv=("x",))),
    status=ReplicaStatus.READY,
    since=0,
    adapters=("law",),
    adapter_errors={"tone": "no"},
)
WORLD = Observation(records=(READY,), processes={}, failures={}, routes=(ROUTE,), restarts=Restarts(failures=3))
LAW, TONE = Adapter(name="law", source="/law", rank=8), Adapter(name="tone", source="/tone", rank=16)


def kept_with(*added: Adapter) -> Kept:
    kept = Kept()
    for one in added:
        _, kept = ask(AdapterChange(model="gpt", add=one), WORLD, kept)
    return kept


def test_adds_lists_and_removes() -> None:
    kept = kept_with(LAW, TONE, TONE)
    assert kept.adapters == {"chat": (LAW, TONE)}
    reply, same = ask(AdapterChange(model="chat"), WORLD, kept)
    assert same == kept
    assert [(one.name, one.loaded, dict(one.errors)) for one in reply.adapters] == [
        ("law", ("r",), {}),
        ("tone", (), {"r": "no"}),
    ]
    reply, kept = ask(AdapterChange(model="chat", remove="law"), WORLD, kept)
    assert ([one.name for one in reply.adapters], kept.adapters) == (["tone"], {"chat": (TONE,)})
    again, _ = ask(AdapterChange(model="chat", add=LAW), WORLD, kept)
    assert again.denial is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (AdapterChange(model="none"), "is not in the plan"),
        (AdapterChange(model="chat", remove="none"), "No adapter 'none' was added to 'chat'. Added: law."),
        (AdapterChange(model="chat", add=replace(LAW, name="gpt")), "is the name of a model, alias or adapter already"),
        (AdapterChange(model="chat", add=replace(LAW, name="declared")), "is the name of a model, alias or adapter"),
        (AdapterChange(model="chat", add=replace(LAW, rank=8, source="/other")), "is the name of a model, alias or"),
        (AdapterChange(model="chat", add=replace(TONE, rank=32)), "has rank 32; `adapter_rank` of 'chat' is 16"),
    ],
)
def test_says_why_not(change: AdapterChange, words: str) -> None:
    reply, kept = ask(change, WORLD, kept_with(LAW))
    assert reply.denial is not None
    assert words in reply.denial.message
    assert kept == kept_with(LAW)


def test_slots_are_limited_and_a_name_stands_for_the_same_weights() -> None:
    full, _ = ask(AdapterChange(model="chat", add=Adapter(name="third", source="/3")), WORLD, kept_with(LAW, TONE))
    assert full.denial is not None
    assert full.denial.code is DenialCode.ADAPTER
    assert "All 2 slots of 'chat' are taken: law, tone." in full.denial.message
    _, freed = ask(AdapterChange(model="chat", remove="law"), WORLD, kept_with(LAW))
    other, _ = ask(AdapterChange(model="chat", add=replace(LAW, source="/new")), WORLD, freed)
    assert other.denial is not None
    assert "was the name of other weights ('/law') before" in other.denial.message
    without = replace(WORLD, routes=(replace(ROUTE, adapter_slots=0),))
    none, _ = ask(AdapterChange(model="chat", add=LAW), without, Kept())
    assert none.denial is not None
    assert "has no room for adapters" in none.denial.message

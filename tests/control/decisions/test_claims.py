"""Who leaves when something else holds GPU memory, and who may sleep instead of being unloaded."""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from berth.control.decisions import claims, eviction
from berth.control.decisions.eviction import Demand, Eviction, Moment
from berth.control.decisions.memory import EXCESS_BYTES
from berth.control.decisions.records import Goal, GpuMemory, Observation, Ram, Record
from berth.ipc.operations import Action, Operation
from berth.plan import EngineName, Launch, Load, MemoryEstimate, ModelRoute, Restarts, Sleep, SleepCall, Task
from berth.room import ASLEEP_BYTES
from berth.state import ReplicaStatus
from tests.fakes.plans import make_replica

SCENES = 10_000 if "RESIDENCY_EVENTS" in os.environ else 3_000  # `make residency`

S = ReplicaStatus
GIB = 2**30
TOTAL = 100 * GIB
NOW = 1000.0
SLEEP = Sleep(sleep_path="/sleep", wake_path="/wake")


@dataclass(frozen=True)
class Model:
    """On one GPU of 100 GiB."""

    name: str
    share: int  # thousandths
    status: ReplicaStatus = S.UNLOADED
    sleeps: bool = False
    taken_gib: float | None = None  # None: its share
    kept_gib: float | None = None  # asleep; None: never measured
    used_at: float = 0.0
    weights_gib: float = 10
    fields: dict[str, object] = field(default_factory=dict)

    def route(self) -> ModelRoute:
        return ModelRoute(
            name=self.name,
            source="x",
            task=Task.GENERATE,
            load=Load.ON_REQUEST,
            replicas=(self.name,),
            room={0: self.share},
        )

    def record(self) -> Record:
        weights_bytes = int(self.weights_gib * GIB)
        memory = MemoryEstimate(
            weights_bytes=weights_bytes, kv_bytes_per_token=1, kv_bytes=1, overhead_bytes=1, largest_context=8
        )
        replica = replace(
            make_replica(self.name, launch=Launch(argv=("engine",))),
            model=self.name,
            engine=EngineName.VLLM,
            gpus=(0,),
            memory=memory,
            sleep=SLEEP if self.sleeps else None,
        )
        live = self.status not in (S.UNLOADED, S.WAITING)
        found = Record(
            replica=replica,
            status=self.status,
            since=0.0,
            goal=Goal.ASLEEP if self.status is S.ASLEEP else None,
            gpu=GpuMemory(
                taken={0: int(self.taken * GIB)} if live else {},
                residue={} if self.kept_gib is None else {0: int(self.kept_gib * GIB)},
            ),
        )
        return replace(found, **self.fields)  # type: ignore[arg-type] # any field

    @property
    def taken(self) -> float:
        return self.share / 10 if self.taken_gib is None else self.taken_gib

    @property
    def holds_gib(self) -> float:
        """Of the GPU, now."""
        if self.status is S.ASLEEP:
            return ASLEEP_BYTES / GIB if self.kept_gib is None else self.kept_gib
        return 0.0 if self.status is S.UNLOADED else self.taken


def observed(
    models: Sequence[Model], *, foreign_gib: float = 0.5, ram_gib: float = 1000, load: str = ""
) -> Observation:
    """While nothing moves. `load`: the model that is to be loaded."""
    operations = (Operation(id="1", action=Action.LOAD, model=load, replicas=(load,), created_at=NOW),) if load else ()
    observation = Observation(
        records=tuple(one.record() for one in models),
        processes={},
        failures={},
        routes=tuple(one.route() for one in models),
        restarts=Restarts(),
        operations=operations,
        room={0: 900},
        gpu_bytes={0: TOTAL},
        ram=Ram(available_bytes=int(ram_gib * GIB), read_at=NOW),
    )
    used = sum(one.holds_gib for one in models) + foreign_gib
    return replace(observation, free_room=claims.physical_room(observation, {0: int(used * GIB)}))


def leaving(models: Sequence[Model], observation: Observation, pinned: Sequence[str] = ()) -> list[Eviction]:
    demands = {one.name: Demand(waiting=0, last_used_at=one.used_at) for one in models}
    return list(eviction.evictions(observation, demands, pinned, Moment(now=NOW, wall=NOW)))


def unloaded(model: str) -> Eviction:
    return Eviction(model=model, other="new", sleeps=False)


def asleep(model: str) -> Eviction:
    return Eviction(model=model, other="new", sleeps=True)


OLD = Model("old", 300, S.READY, used_at=1)
RECENT = Model("recent", 300, S.READY, used_at=2)
NEW = Model("new", 300)


def test_memory_that_something_else_took_makes_more_models_leave() -> None:
    third = Model("third", 300, S.READY, used_at=3)
    models = [OLD, RECENT, third, NEW]
    assert leaving(models, observed(models, load="new")) == [unloaded("old")]
    # 100 GiB - 8.5 = 91.5: two stay next to the new one only while others hold less than 10
    assert leaving(models, observed(models, foreign_gib=8.5, load="new")) == [unloaded("old")]
    assert leaving(models, observed(models, foreign_gib=20, load="new")) == [unloaded("old"), unloaded("recent")]


def test_no_model_leaves_in_vain_and_what_is_missing_is_known() -> None:
    models = [replace(OLD, share=600), replace(NEW, share=600)]
    fits = observed(models, foreign_gib=39, load="new")
    assert leaving(models, fits) == [unloaded("old")]
    assert eviction.shut_out(models[1].route(), fits, ()) == {}
    full = observed(models, foreign_gib=45, load="new")
    assert leaving(models, full) == []
    assert eviction.shut_out(models[1].route(), full, ()) == {0: 5 * GIB}
    assert eviction.without_room(full) == (models[1].route(),)
    assert eviction.blocker(models[1].route(), full, ()) == ""  # no pinned model does that


def test_pinned_models_do_not_leave_for_memory_that_others_hold() -> None:
    models = [OLD, NEW]
    observation = observed(models, foreign_gib=50, load="new")
    assert eviction.shut_out(models[1].route(), observation, ()) == {}
    assert eviction.shut_out(models[1].route(), observation, ("old",)) == {0: 10 * GIB}


def test_engine_that_took_more_than_its_share_releases_all_of_it() -> None:
    models = [replace(OLD, share=600, taken_gib=61.5), replace(NEW, share=600)]
    observation = observed(models, foreign_gib=39, load="new")
    assert leaving(models, observation) == [unloaded("old")]
    assert eviction.shut_out(models[1].route(), observation, ()) == {}


def test_what_came_while_an_engine_loaded_does_not_leave_with_it() -> None:
    models = [replace(OLD, share=300, taken_gib=60), replace(NEW, share=800)]
    observation = observed(models, foreign_gib=0.5, load="new")
    assert eviction.shut_out(models[1].route(), observation, ()) == {0: int(8.5 * GIB)}


def test_a_gpu_is_not_judged_while_memory_moves_on_it() -> None:
    models = [replace(OLD, status=S.STOPPING), NEW]
    assert observed(models, foreign_gib=60).free_room == {}
    assert observed([replace(OLD, fields={"cleaned_up": False}, status=S.UNLOADED), NEW]).free_room == {}
    assert observed([OLD, NEW]).free_room == {0: int(99.5 * GIB)}


@pytest.mark.parametrize(
    ("old", "ram_gib", "found"),
    [
        (replace(OLD, share=600, sleeps=True), 100, asleep("old")),
        (replace(OLD, share=600), 100, unloaded("old")),
        (replace(OLD, share=600, sleeps=True, fields={"cannot_sleep": "it hung"}), 100, unloaded("old")),
        (replace(OLD, share=600, sleeps=True), 10.9, unloaded("old")),  # its weights do not fit into RAM
        (replace(OLD, share=600, sleeps=True, kept_gib=25), 100, asleep("old")),
        (replace(OLD, share=600, sleeps=True, kept_gib=35), 100, unloaded("old")),  # it would keep too much
        (replace(OLD, share=600, sleeps=True, status=S.ASLEEP, kept_gib=35), 100, unloaded("old")),
    ],
)
def test_model_sleeps_instead_where_it_may_and_what_it_keeps_fits(old: Model, ram_gib: float, found: Eviction) -> None:
    models = [old, replace(NEW, share=600)]
    assert leaving(models, observed(models, ram_gib=ram_gib, load="new")) == [found]


def test_engine_that_sleeps_without_its_weights_needs_no_ram() -> None:
    old = replace(OLD, share=600, sleeps=True)
    record = old.record()
    light = replace(SLEEP, light=(SleepCall(path="/sleep?level=2"),))
    old = replace(old, fields={"replica": replace(record.replica, sleep=light)})
    models = [old, replace(NEW, share=600)]
    assert leaving(models, observed(models, ram_gib=0, load="new")) == [asleep("old")]


def test_ram_is_promised_once() -> None:
    some = [replace(OLD, share=400, sleeps=True), replace(RECENT, share=400, sleeps=True)]
    models = [*some, replace(NEW, share=800)]
    observation = observed(models, ram_gib=12, load="new")
    assert leaving(models, observation) == [unloaded("old"), asleep("recent")]


def test_models_that_sleep_hold_what_they_keep_and_leave_for_it() -> None:
    sleeper = Model("sleeper", 600, S.ASLEEP, kept_gib=3, used_at=1)
    models = [sleeper, replace(NEW, share=800)]
    observation = observed(models, load="new")
    assert claims.present(sleeper.route(), observation).planned == {0: 30}
    assert leaving(models, observation) == []
    assert eviction.without_room(observation) == ()
    models = [sleeper, replace(NEW, share=880)]
    assert leaving(models, observed(models, load="new")) == [unloaded("sleeper")]


def test_a_model_that_sleeps_waits_for_room_to_wake() -> None:
    sleeper, awake = Model("new", 600, S.ASLEEP, kept_gib=3), replace(OLD, share=600, sleeps=True)
    observation = observed([sleeper, awake], load="new")
    assert eviction.without_room(observation) == (sleeper.route(),)
    assert leaving([sleeper, awake], observation) == [asleep("old")]


@pytest.mark.parametrize(
    "record",
    [
        replace(Model("m", 600, S.ASLEEP).record(), goal=None),  # as a warm standby
        replace(Model("m", 600, S.WAKING).record(), goal=Goal.ASLEEP),
        replace(Model("m", 600, S.READY).record()),
    ],
)
def test_only_what_sleeps_by_request_gives_its_room_away(record: Record) -> None:
    assert not claims.is_asleep([record])


def test_on_the_cpu_sleep_makes_no_room() -> None:
    old = replace(OLD, share=600, sleeps=True)
    on_cpu = replace(old, fields={"replica": replace(old.record().replica, gpus=())})
    route = replace(on_cpu.route(), room={-1: 600})
    observation = replace(observed([on_cpu]), room={-1: 900}, routes=(route,))
    assert claims.asleep(route, observation).planned == {-1: 600}


def test_engines_that_take_what_they_find_need_a_little_less() -> None:
    observation = observed([OLD])
    (record,) = observation.records
    other = replace(observation, records=(replace(record, replica=replace(record.replica, engine=EngineName.SGLANG)),))
    assert claims.whole(OLD.route(), observation).physical == {0: 30 * GIB}
    assert claims.whole(OLD.route(), other).physical == {0: 30 * GIB - EXCESS_BYTES}


def test_nothing_leaves_in_vain_in_thousands_of_scenes() -> None:
    """What leaves makes the memory free, at most so much short of it as engines may have grown; nothing leaves for a
    model that fits, and none more than needed.
    """
    dice = random.Random(12)
    left = slept = shut_out = 0
    for _ in range(SCENES):
        models = [
            Model(
                f"m{number}",
                dice.randint(50, 700),
                dice.choice([S.READY, S.READY, S.ASLEEP, S.UNLOADED]),
                sleeps=dice.random() < 0.6,
                taken_gib=None if dice.random() < 0.5 else dice.uniform(3, 70),
                kept_gib=dice.choice([None, dice.uniform(0.1, 9)]),
                used_at=dice.uniform(0, 900),
                weights_gib=dice.uniform(1, 60),
            )
            for number in range(dice.randint(1, 5))
        ]
        # engines take about what the plan says
        models = [
            replace(one, taken_gib=min(one.taken, one.share / 10 + 1.9)) if one.status is S.READY else one
            for one in models
        ]
        new = Model("new", dice.randint(50, 890))
        foreign_gib = dice.choice([0.5, 8.0, dice.uniform(0, 99)])
        pinned = [one.name for one in models if one.status is S.READY and dice.random() < 0.15]
        every = [*models, new]
        observation = observed(every, foreign_gib=foreign_gib, ram_gib=dice.choice([0, 50, 500]), load="new")
        free_gib = 100 - foreign_gib - sum(one.holds_gib for one in models)
        missing_gib = new.share / 10 - free_gib
        gone = leaving(every, observation, pinned)
        by_name = {one.name: one for one in models}
        given_gib = sum(
            by_name[one.model].holds_gib - (by_name[one.model].kept_gib or 2.0 if one.sleeps else 0) for one in gone
        )
        if gone:
            assert given_gib + len(gone) * EXCESS_BYTES / GIB >= missing_gib - 1e-6
            assert not {one.model for one in gone} & set(pinned)
            assert eviction.without_room(observation)
            left, slept = left + 1, slept + any(one.sleeps for one in gone)
        elif missing_gib > 0:  # by what others hold, or by pinned models
            staying_gib = sum(one.holds_gib for one in models if one.name in pinned)
            staying = sum(one.share for one in models if one.name in pinned)
            loaded = len([one for one in models if one.name not in pinned and one.status is not S.UNLOADED])
            fits_gpu = 100 - foreign_gib - staying_gib + loaded * EXCESS_BYTES / GIB >= new.share / 10 + 1e-6
            assert not (fits_gpu and staying + new.share <= 900)
            shut_out += bool(eviction.shut_out(new.route(), observation, pinned))
    assert min(left / 0.2, slept / 0.05, shut_out / 0.05) > SCENES

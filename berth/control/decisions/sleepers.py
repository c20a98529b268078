"""How engines sleep, and whose weights stay in the RAM of the host. Pure.

An engine leaves its GPUs in the first of three ways that is possible and pays:

1. It sleeps with its weights in RAM.
2. It sleeps without them, and reads them again from the page cache or the disk when it wakes.
3. It is stopped.

RAM is one account for all sleepers: what the container has left, but RESERVE of all; each engine's weights are promised
once, until a reading shows them. A wake pays unless it was seen to take longer than a start, by more than NOISE_S.

Where the RAM does not suffice for a model, those that sleep with their weights in it give them up, if that costs less
than it saves: the seconds between a wake and the next best way back, the less the longer the model was not used. They
are stopped, since vLLM does not drop the weights of an engine that sleeps already. None of higher priority gives its
RAM up, none that is pinned, and none that is about to wake.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from berth.control.decisions import claims
from berth.control.decisions.claims import RANK, records_of
from berth.control.decisions.records import LIVE, Goal, Observation, Ram, Record
from berth.ipc.operations import Action
from berth.plan import ModelRoute
from berth.records.starts import How
from berth.state import ReplicaStatus
from berth.units import size

_S = ReplicaStatus

RAM_MARGIN = 1.1  # of the weights' bytes: what pinning them takes besides
RESERVE = 0.1  # of all RAM: not for sleepers
SHORT = 0.04  # of all RAM: with less left, sleepers are stopped
NOISE_S = 5.0
UNKNOWN_START_S = 60.0
WAKE_SHARE, RELOAD_SHARE = 0.1, 0.5  # of a start: what wakes count that were not seen yet
HALF_LIFE_S = 60.0  # without use, after which a wake counts half
RELEASED_S = 60.0  # RAM that is not back by then does not count as coming back
UNLIMITED = 1 << 62


class Way(NamedTuple):
    how: How | None  # it will wake; None: it is stopped
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the choice depends on. The times are on time.monotonic()'s clock."""

    observation: Observation
    free_bytes: int  # of RAM
    last_used_at: Mapping[str, float]  # of the models that are loaded on request
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """How the engines of one model leave."""

    sleeps: bool
    why: str
    ram_bytes: int = 0  # for their weights
    waits: bool = False  # until the RAM is free that others release
    given_up: tuple[ModelRoute, ...] = ()  # models that are to be stopped for that


def weights_in_ram(record: Record) -> int:
    """What the engine keeps there while it sleeps with its weights."""
    weights_bytes = record.replica.memory.weights_bytes if record.replica.memory else 0
    return int(weights_bytes * len(record.replica.gpus) * RAM_MARGIN)


def held_bytes(record: Record) -> int:
    """What it keeps there now."""
    return weights_in_ram(record) if record.status is _S.ASLEEP and record.wakes is How.WAKE_1 else 0


def budget_bytes(records: Collection[Record], ram: Ram) -> int | None:
    """For the weights of all sleepers together. None: RAM was not read."""
    if ram.read_at is None:
        return None
    return max(free_bytes(records, ram) + sum(held_bytes(one) or _promised(one, math.inf) for one in records), 0)


def free_bytes(records: Collection[Record], ram: Ram, *, reserved: bool = True) -> int:
    """For further weights. `reserved`: without what is not for sleepers that only save time."""
    if ram.read_at is None:
        return UNLIMITED
    promised = sum(_promised(one, ram.read_at) for one in records)
    return ram.available_bytes - promised - (int(ram.limit_bytes * RESERVE) if reserved else 0)


def _promised(record: Record, read_at: float) -> int:
    """It is not in the last reading yet."""
    is_new = record.status is _S.ASLEEP and record.since >= read_at
    if record.status is _S.FALLING_ASLEEP or is_new:
        return weights_in_ram(record) if record.wakes is How.WAKE_1 else 0
    return weights_in_ram(record) if record.status is _S.DRAINING and record.goal is Goal.ASLEEP else 0


def _released(record: Record, ram: Account) -> int:
    """What it held, and is not free in the last reading, but about to be."""
    observation = ram.observation
    if record.wakes is not How.WAKE_1:
        return 0
    if record.status is _S.ASLEEP:
        leaves = any(
            one.action is Action.UNLOAD and record.replica.name in one.replicas for one in observation.operations
        )
        return weights_in_ram(record) if leaves else 0
    read_at = observation.ram.read_at or 0.0
    is_new = record.status is _S.STOPPING or (
        record.status not in LIVE and (not record.cleaned_up or record.since >= read_at)
    )
    return weights_in_ram(record) if is_new and ram.now - record.since < RELEASED_S else 0


def way(record: Record, observation: Observation, free: int) -> Way:
    """How one engine leaves where so much RAM is free."""
    sleep, needed = record.replica.sleep, weights_in_ram(record)
    if sleep is None:
        return Way(None, "")
    if record.cannot_sleep:
        return Way(None, record.cannot_sleep)
    times, start_s = _times(record, observation), _start_s(record, observation)
    if needed <= free and times.get(How.WAKE_1, 0.0) <= start_s + NOISE_S:
        left = f" of {size(free)} that are left" if free < UNLIMITED else ""
        return Way(How.WAKE_1, f"with its weights in RAM, {size(needed)}{left}" if needed else "")
    why = f"its weights would take {size(needed)} of RAM, and {size(max(free, 0))} are left"
    if needed <= free:
        why = f"a wake takes {times[How.WAKE_1]:.0f} s, a start {start_s:.0f} s"
    if not sleep.light:
        return Way(None, why)
    if times.get(How.WAKE_2, 0.0) <= start_s + NOISE_S:
        return Way(How.WAKE_2, f"without its weights, which it reads again: {why}")
    return Way(None, f"{why}; to read them again takes {times[How.WAKE_2]:.0f} s, a start {start_s:.0f} s")


def account(observation: Observation, last_used_at: Mapping[str, float], now: float) -> Account:
    """`now`: infinite where all times are over that others have to stay."""
    latest = max(last_used_at.values(), default=0.0)
    free, at = free_bytes(observation.records, observation.ram), latest if math.isinf(now) else now
    return Account(observation=observation, free_bytes=free, last_used_at=last_used_at, now=at)


def leave(route: ModelRoute, ram: Account, others: Sequence[ModelRoute]) -> Leave:
    """How a model leaves whose engines are ready. `others`: models that sleep, and may be stopped for its RAM."""
    observation, free = ram.observation, ram.free_bytes
    live = [one for one in records_of(route, observation) if one.status in LIVE]
    if not live or any(one.status is not _S.READY for one in live):
        return Leave(sleeps=False, why="")
    needed = sum(map(weights_in_ram, live))
    ways = list(_ways(live, observation, free))
    if all(one.how is How.WAKE_1 for one in ways):
        return Leave(sleeps=True, why=ways[0].why, ram_bytes=needed)
    in_ram = list(_ways(live, observation, UNLIMITED))
    if all(one.how is How.WAKE_1 for one in in_ram):
        lacking = needed - free - sum(_released(one, ram) for one in observation.records)
        given_up = given_up_for(route, lacking, ram, others)
        if lacking <= 0 or given_up:
            why = f"with its weights in RAM, {size(needed)}"
            names = ", ".join(one.name for one in given_up)
            why += f", once {names} {'is' if len(given_up) == 1 else 'are'} stopped for it" if names else ""
            return Leave(sleeps=True, why=why, ram_bytes=needed, waits=True, given_up=given_up)
    worst = next((one for one in ways if one.how is None), next(one for one in ways if one.how is not How.WAKE_1))
    sleeps = worst.how is not None
    taken = sum(weights_in_ram(one) for one, how in zip(live, ways, strict=True) if how.how is How.WAKE_1)
    return Leave(sleeps=sleeps, why=worst.why, ram_bytes=taken if sleeps else 0)


def _ways(records: Sequence[Record], observation: Observation, free: int) -> Iterator[Way]:
    """Of engines that leave together: RAM is promised once."""
    for record in records:
        found = way(record, observation, free)
        free -= weights_in_ram(record) if found.how is How.WAKE_1 and free < UNLIMITED else 0
        yield found


def given_up_for(route: ModelRoute, lacking: int, ram: Account, others: Sequence[ModelRoute]) -> tuple[ModelRoute, ...]:
    """The sleepers that are stopped so that `lacking` bytes become free: those that are worth least first. (): none,
    or it is not worth it.
    """

    def bytes_of(one: ModelRoute) -> int:
        return sum(map(held_bytes, records_of(one, ram.observation)))

    rank = RANK[route.priority]
    able = [one for one in others if bytes_of(one) and RANK[one.priority] >= rank and one.name in ram.last_used_at]
    chosen: list[ModelRoute] = []
    for one in sorted(able, key=lambda one: (-RANK[one.priority], worth(one, ram))):
        if sum(map(bytes_of, chosen)) < lacking:
            chosen.append(one)
    for one in reversed(chosen):
        rest = [other for other in chosen if other is not one]
        if sum(map(bytes_of, rest)) >= lacking:
            chosen = rest
    lost = sum(worth(one, ram) for one in chosen if RANK[one.priority] == rank)
    pays = sum(map(bytes_of, chosen)) >= lacking > 0 and lost < worth(route, ram)
    return tuple(chosen) if pays else ()


def worth(route: ModelRoute, ram: Account) -> float:
    """What its weights in RAM are worth: the seconds that they save, the less the longer the model was not used. While
    it is ready, it could also sleep without them.
    """
    saved_s = 0.0
    for record in records_of(route, ram.observation):
        times, start_s = _times(record, ram.observation), _start_s(record, ram.observation)
        back_s = start_s
        if record.status is _S.READY and record.replica.sleep and record.replica.sleep.light:
            back_s = min(back_s, times.get(How.WAKE_2, RELOAD_SHARE * start_s))
        saved_s = max(saved_s, back_s - times.get(How.WAKE_1, WAKE_SHARE * start_s))
    return saved_s * HALF_LIFE_S / (HALF_LIFE_S + max(ram.now - ram.last_used_at[route.name], 0.0))


def relief(ram: Account, others: Sequence[ModelRoute]) -> ModelRoute | None:
    """The model that is stopped because the host is short of RAM: one at a time, those that are worth least first."""
    observation, read = ram.observation, ram.observation.ram
    is_short = read.read_at is not None and read.available_bytes < read.limit_bytes * SHORT
    if not is_short or any(_released(one, ram) for one in observation.records):
        return None
    able = [
        one for one in others if one.name in ram.last_used_at and any(map(held_bytes, records_of(one, observation)))
    ]
    return min(able, key=lambda one: (-RANK[one.priority], worth(one, ram)), default=None)


def candidates(observation: Observation, kept: Collection[str]) -> list[ModelRoute]:
    """The models that sleep, and may be stopped for their RAM: none in `kept`, and none that an operation changes."""
    changing = {one.model for one in observation.operations}
    return [
        one
        for one in observation.routes
        if one.name not in kept and one.name not in changing and claims.is_asleep(records_of(one, observation))
    ]


def _times(record: Record, observation: Observation) -> Mapping[How, float]:
    return observation.start_times.get(record.replica.name, {})


def _start_s(record: Record, observation: Observation) -> float:
    return _times(record, observation).get(How.COLD) or record.load_s or UNKNOWN_START_S

"""Which models fit into memory at the same time, where those that are loaded on request share it. Pure.

A device is a GPU, by its index, or the RAM of the models that run on the CPU.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from berth.plan import ModelRoute

RAM: Final = -1
WHOLE: Final = 1000  # thousandths: a whole GPU
# Of each GPU, per sleeping engine: its CUDA context and graphs, and NCCL's buffers. A cautious figure, not measured.
ASLEEP_BYTES: Final = 2 * 2**30
LARGEST_CONFLICT = 4  # models; larger sets are not listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Models that cannot be loaded at the same time, although any fewer of them can."""

    models: tuple[str, ...]
    devices: tuple[int, ...]

    def __str__(self) -> str:
        *others, last = self.models
        return f"{', '.join(others)} and {last} cannot be loaded at the same time: {named(self.devices)}"


def named(devices: Iterable[int]) -> str:
    """GPU 0, 1, RAM."""
    gpus = [str(device) for device in devices if device != RAM]
    return ", ".join([*([f"GPU {', '.join(gpus)}"] if gpus else []), *(["RAM"] if RAM in devices else [])])


def short(room: Mapping[int, int], loaded: Iterable[Mapping[int, int]]) -> tuple[int, ...]:
    """The devices that do not hold all of these at once, each by what it takes of them."""
    left = dict(room)
    for one in loaded:
        for device, taken in one.items():
            left[device] -= taken
    return tuple(device for device, rest in left.items() if rest < 0)


def conflicts(room: Mapping[int, int], routes: Sequence[ModelRoute]) -> tuple[Conflict, ...]:
    """The smallest sets first."""
    found: list[Conflict] = []
    sharing = [route for route in routes if route.room] if room else []
    for count in range(2, LARGEST_CONFLICT + 1):
        for chosen in itertools.combinations(sharing, count):
            names = {route.name for route in chosen}
            devices = short(room, [route.room for route in chosen])
            if devices and not any(names.issuperset(one.models) for one in found):
                found.append(Conflict(models=tuple(route.name for route in chosen), devices=devices))
    return tuple(found)

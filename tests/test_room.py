"""Which models fit at the same time, and how that is said."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from berth.plan import ModelRoute, Task
from berth.room import LARGEST_CONFLICT, RAM, conflicts, short


def routes(*rooms: dict[int, int]) -> list[ModelRoute]:
    return [
        ModelRoute(name=f"m{number}", source="x", task=Task.GENERATE, replicas=(), room=room)
        for number, room in enumerate(rooms)
    ]


def test_names_the_smallest_sets_and_their_devices() -> None:
    found = conflicts({0: 900, 1: 900}, routes({0: 500}, {0: 500}, {0: 300, 1: 600}, {1: 400}, {}))
    assert list(map(str, found)) == [
        "m0 and m1 cannot be loaded at the same time: GPU 0",
        "m2 and m3 cannot be loaded at the same time: GPU 1",
    ]


def test_three_models_of_which_any_two_fit() -> None:
    (found,) = conflicts({0: 900}, routes({0: 400}, {0: 400}, {0: 400}))
    assert str(found) == "m0, m1 and m2 cannot be loaded at the same time: GPU 0"


def test_ram_and_several_gpus_have_names() -> None:
    assert str(conflicts({RAM: 10}, routes({RAM: 6}, {RAM: 6}))[0]).endswith(": RAM")
    assert str(conflicts({0: 9, 1: 9}, routes({0: 6, 1: 6}, {0: 6, 1: 6}))[0]).endswith(": GPU 0, 1")


def test_without_shared_room_nothing_conflicts() -> None:
    assert conflicts({}, routes({}, {})) == ()


ROOMS = st.lists(st.dictionaries(st.integers(0, 2), st.integers(0, 10), min_size=1), min_size=2, max_size=5)


@given(ROOMS)
def test_conflicts_are_all_that_does_not_fit(rooms: list[dict[int, int]]) -> None:
    room, models = dict.fromkeys(range(3), 10), routes(*rooms)
    found = conflicts(room, models)
    for count in range(1, LARGEST_CONFLICT + 1):
        for some in itertools.combinations(models, count):
            names = {one.name for one in some}
            assert bool(short(room, [one.room for one in some])) == any(names.issuperset(one.models) for one in found)

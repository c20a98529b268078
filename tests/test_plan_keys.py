"""API keys keep their counters when the file of the keys changes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berth.plan import ApiKey
from berth.plan.keys import renewed


def keys(*names: str) -> list[ApiKey]:
    return [ApiKey(name=name, slot=slot, day_from=slot) for slot, name in enumerate(names, 1)]


def test_names_keep_their_slots_and_new_ones_get_free_ones() -> None:
    found, retired = renewed(keys("a", "b"), {}, [ApiKey(name="c"), ApiKey(name="b", share=2)], slots=4)

    assert found == (ApiKey(name="c", slot=3), ApiKey(name="b", slot=2, share=2, day_from=2))
    assert retired == {"a": 1}


def test_a_name_that_comes_back_has_its_counters_again() -> None:
    found, retired = renewed(keys("a"), {"b": 2}, [ApiKey(name="b")], slots=3)

    assert ([key.slot for key in found], retired) == ([2], {"a": 1})


def test_slots_are_not_endless() -> None:
    with pytest.raises(ValueError, match="restart"):
        renewed(keys("a"), {"b": 2}, [ApiKey(name="c")], slots=3)


NAMES = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6)


@settings(max_examples=50)
@given(st.lists(NAMES, max_size=6))
def test_a_slot_never_changes_its_owner(versions: list[list[str]]) -> None:
    now: tuple[ApiKey, ...] = ()
    retired: dict[str, int] = {}
    owners: dict[int, str] = {}
    for names in versions:
        now, retired = renewed(now, retired, [ApiKey(name=name) for name in names], slots=7)
        assert [key.name for key in now] == names
        for name, slot in [*((key.name, key.slot) for key in now), *retired.items()]:
            assert owners.setdefault(slot, name) == name

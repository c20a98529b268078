"""What is expected to be used once an engine is gone, in every order of starts and ends."""

from hypothesis import given, settings
from hypothesis import strategies as st

from berth.control.memory.ledger import Ledger


def test_neighbours_count_as_they_are_now() -> None:
    ledger = Ledger()
    ledger.started("a", {0: 1})
    ledger.loaded("a", {0: 31})
    ledger.started("b", {0: 31})
    ledger.loaded("b", {0: 51})
    assert ledger.expected("a", ["b"]) == {0: 21}
    ledger.changed("b", {0: 15})  # asleep
    assert ledger.expected("a", ["b"]) == {0: 6}
    ledger.gone("a")
    assert ledger.expected("b", []) == {0: 1}


def test_what_is_not_known_is_not_expected() -> None:
    ledger = Ledger()
    assert ledger.expected("a", []) is None
    ledger.started("a", {0: 1})
    assert ledger.expected("a", ["b"]) is None
    assert ledger.expected("a", []) == {0: 1}


def test_an_engine_that_loads_while_another_one_dies_is_not_measured() -> None:
    ledger = Ledger()
    ledger.started("a", {0: 1})
    ledger.loaded("a", {0: 31})
    ledger.started("b", {0: 31})
    ledger.gone("a")
    ledger.loaded("b", {0: 21})
    assert ledger.expected("b", []) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 30)), max_size=40))
def test_expected_is_what_is_left(changes: list[tuple[str, int]]) -> None:
    """Each change starts an engine that takes so much, lets one that runs sleep or wake, or ends it."""
    ledger, taken, asleep = Ledger(), dict[str, int](), dict[str, int]()

    def used() -> int:
        return 2 + sum(taken.values())

    for name, number in changes:
        if name not in taken:
            ledger.started(name, {0: used()})
            taken[name] = number
            ledger.loaded(name, {0: used()})
        elif number < 10 and name not in asleep:
            asleep[name] = taken[name] - 1
            taken[name] = 1
            ledger.changed(name, {0: asleep[name]})
        elif number < 20 and name in asleep:
            taken[name] += asleep[name]
            ledger.changed(name, {0: -asleep.pop(name)})
        else:
            del taken[name]
            asleep.pop(name, None)
            ledger.gone(name)
            assert ledger.expected(name, taken) == {0: used()}

import pytest

from berth.sim.faults.table import FAULTS, duration_s


@pytest.mark.parametrize(
    ("text", "seconds"), [("20ms", 0.02), ("1.5s", 1.5), ("2m", 120), ("1h", 3600), ("3", 3), (" 0 ", 0)]
)
def test_parses_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "fast", "-1s", "1d", "1 s", "ms"])
def test_rejects_invalid_durations_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"examples: 20ms, 1\.5s, 2m"):
        duration_s(text)


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [("null", True, 1), ("status", True, 503), ("status", "418", 418), ("hang-before", "20ms", 0.02)],
)
def test_parses_the_value_of_a_fault(name: str, value: object, parsed: float) -> None:
    assert FAULTS[name].parse(name, value) == pytest.approx(parsed)


def test_every_fault_has_a_help_text() -> None:
    assert all(kind.help for kind in FAULTS.values())

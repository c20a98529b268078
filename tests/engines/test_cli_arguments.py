import pytest

from berth.engines.cli_arguments import number, option


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ((), None),
        (("--most", "3"), "3"),
        (("--most=3",), "3"),
        (("--most", "3", "--x", "--most=4"), "4"),
        (("--a-b", "3", "--most"), ""),
        (("--mostly", "3"), None),
    ],
)
def test_the_last_one_counts(words: tuple[str, ...], value: str | None) -> None:
    assert option(words, "--most", "-m") == value


def test_any_of_its_flags_will_do_in_either_spelling() -> None:
    assert option(("-m", "3"), "--most", "-m") == "3"
    assert option(("--at_most", "3"), "--at-most") == "3"


@pytest.mark.parametrize(("words", "value"), [(("--most", "30"), 30), (("--most", "many"), None), ((), None)])
def test_a_number_or_nothing(words: tuple[str, ...], value: int | None) -> None:
    assert number(words, "--most") == value

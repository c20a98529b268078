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
def test_last_option_counts(words: tuple[str, ...], value: str | None) -> None:
    assert option(words, "--most", "-m") == value


def test_accepts_all_flags_in_both_spellings() -> None:
    assert option(("-m", "3"), "--most", "-m") == "3"
    assert option(("--at_most", "3"), "--at-most") == "3"


@pytest.mark.parametrize(("words", "value"), [(("--most", "30"), 30), (("--most", "many"), None), ((), None)])
def test_reads_a_number_or_none(words: tuple[str, ...], value: int | None) -> None:
    assert number(words, "--most") == value

import pytest

from berth.engines.cli_arguments import media_domains, names, number, option
from berth.engines.registry import ENGINES
from berth.plan import EngineName
from tests.fakes.orders import launch_order


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ((), None),
        (("--most", "3"), "3"),
        (("--most=3",), "3"),
        (("--most", "3", "--x", "--most=4"), "4"),
        (("--a-b", "3", "--most"), ""),
        (("--mostly", "3"), None),
        (("--mo", "3"), "3"),
        (("--mo=a_b=c",), "a_b=c"),
        (("--", "3"), None),
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


@pytest.mark.parametrize("engine", [EngineName.VLLM, EngineName.SGLANG])
@pytest.mark.parametrize(
    ("hosts", "offline", "words"),
    [
        (None, False, []),
        (("a.example", "10.0.0.5"), False, ["--allowed-media-domains", "a.example", "10.0.0.5"]),
        ((), False, ["--allowed-media-domains", "nothing.invalid"]),
        (None, True, ["--allowed-media-domains", "nothing.invalid"]),
    ],
)
def test_engines_are_told_what_they_may_fetch_from(
    engine: EngineName, hosts: tuple[str, ...] | None, offline: bool, words: list[str]
) -> None:
    order = launch_order(fetch_hosts=hosts, offline=offline)
    argv = list(ENGINES[engine].launch(order).argv)

    assert media_domains(order) == words
    assert (words == [] and "--allowed-media-domains" not in argv) or words == argv[argv.index(words[0]) :][
        : len(words)
    ]


def test_vllm_follows_no_redirects() -> None:
    assert ENGINES[EngineName.VLLM].launch(launch_order()).env["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--spec-method", "ngram"), True),
        (("--speculative_config={}",), True),
        (("-sc", "{}"), True),
        (("--served", "--spe"), False),
        ((), False),
    ],
)
def test_finds_options_by_their_beginning(words: tuple[str, ...], named: bool) -> None:
    assert names(words, "--spec", "-sc") is named

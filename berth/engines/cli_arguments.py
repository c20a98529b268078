"""What the user's own words on an engine's command line say, and words that several engines are given."""

from collections.abc import Sequence

from berth.engines.base import LaunchOrder

NO_HOST = "nothing.invalid"  # engines know no word for none, and RFC 2606 reserves this for nobody


def option(words: Sequence[str], *flags: str) -> str | None:
    """The value of the option that is written as one of these flags; the last one counts, as it does for engines.
    None where there is none of them. Dashes and underscores are the same, as they are for vLLM and TensorRT-LLM.
    """
    spellings = {_plain(flag) for flag in flags}
    value = None
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, equals, attached = word.partition("=")
        if _plain(flag) in spellings:
            value = attached if equals else following
    return value


def number(words: Sequence[str], *flags: str) -> int | None:
    """The same for an option that is a number. None too where it is none: the engine will say so."""
    value = option(words, *flags)
    return int(value) if value is not None and value.isdecimal() else None


def media_domains(order: LaunchOrder) -> list[str]:
    """VLLM's and SGLang's own list of the hosts to fetch from: `references` in the router is there before it."""
    hosts = () if order.offline else order.fetch_hosts
    return [] if hosts is None else ["--allowed-media-domains", *(hosts or (NO_HOST,))]


def _plain(flag: str) -> str:
    return flag.replace("_", "-")

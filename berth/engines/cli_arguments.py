"""Options in the user's own arguments for an engine, and options that several engines have."""

from collections.abc import Sequence

from berth.engines.base import LaunchOrder

WHOLE_FLAGS = frozenset({"--tokenizer"})  # options of their own that begin another's flag
NO_HOST = "nothing.invalid"  # engines have no value for an empty list; RFC 2606 reserves this name


def option(words: Sequence[str], *flags: str) -> str | None:
    """The value of the option with one of these flags, None without it. The last one counts, dashes and underscores
    are equal, as in vLLM and TensorRT-LLM, and a long flag may be abbreviated, as argparse allows. Of an ambiguous
    abbreviation, which the engine rejects, the value does not matter.
    """
    spellings = {flag.replace("_", "-") for flag in flags}
    value = None
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, equals, _ = word.replace("_", "-").partition("=")
        abbreviated = len(flag) > len("--") and flag.startswith("--") and flag not in WHOLE_FLAGS
        if flag in spellings or (abbreviated and any(one.startswith(flag) for one in spellings)):
            value = word.partition("=")[2] if equals else following
    return value


def number(words: Sequence[str], *flags: str) -> int | None:
    """The same for a number. None also where the value is not a number: the engine will reject it."""
    value = option(words, *flags)
    return int(value) if value is not None and value.isdecimal() else None


def names(words: Sequence[str], *beginnings: str) -> bool:
    """Whether one of the words is an option that begins like this. Dashes and underscores are equal."""
    flags = (word.partition("=")[0].replace("_", "-") for word in words)
    return any(flag.startswith(beginnings) for flag in flags)


def media_domains(order: LaunchOrder) -> list[str]:
    """The hosts from which vLLM and SGLang themselves may fetch; `references` in the router checks them before."""
    hosts = () if order.offline else order.fetch_hosts
    return [] if hosts is None else ["--allowed-media-domains", *(hosts or (NO_HOST,))]

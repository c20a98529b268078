"""Options in the user's own arguments for an engine, and options that several engines have."""

from collections.abc import Sequence

from berth.engines.base import LaunchOrder

NO_HOST = "nothing.invalid"  # engines have no value for an empty list; RFC 2606 reserves this name


def option(words: Sequence[str], *flags: str) -> str | None:
    """The value of the option with one of these flags, None without it. The last one counts, and dashes and underscores
    are equal, as in vLLM and TensorRT-LLM.
    """
    spellings = {_with_dashes(flag) for flag in flags}
    value = None
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, equals, attached = word.partition("=")
        if _with_dashes(flag) in spellings:
            value = attached if equals else following
    return value


def number(words: Sequence[str], *flags: str) -> int | None:
    """The same for a number. None also where the value is not a number: the engine will reject it."""
    value = option(words, *flags)
    return int(value) if value is not None and value.isdecimal() else None


def media_domains(order: LaunchOrder) -> list[str]:
    """The hosts from which vLLM and SGLang themselves may fetch; `references` in the router checks them before."""
    hosts = () if order.offline else order.fetch_hosts
    return [] if hosts is None else ["--allowed-media-domains", *(hosts or (NO_HOST,))]


def _with_dashes(flag: str) -> str:
    return flag.replace("_", "-")

"""Options in the user's own arguments for an engine."""

from collections.abc import Sequence


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


def _with_dashes(flag: str) -> str:
    return flag.replace("_", "-")

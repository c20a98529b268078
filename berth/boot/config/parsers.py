"""The units of configuration: one parser per kind of value, from text.

Each raises ValueError with what is wrong in a few words; the caller adds the name, what is allowed and an example.

Values that are given as a file: `NAME_FILE=/run/secrets/x` instead of `NAME=...`.
"""

import ipaddress
import math
import os
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

TRUE_WORDS = ("1", "true", "yes", "on")
FALSE_WORDS = ("0", "false", "no", "off")
DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LONGEST_DURATION_S = 365 * 86400.0
SIZE_UNITS: dict[str, int] = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
}
TOKEN_UNITS = {"": 1, "k": 1000, "m": 1000**2, "K": 1024, "M": 1024**2}  # as vLLM reads them: 8k is 8000, 8K is 8192
LONGEST_CONTEXT = 2**40
SECRET_NAME = re.compile(r"(key|token|secret|password)\Z", re.IGNORECASE)
SECRET_OPTION = re.compile(r"--.*(key|token|secret|password)\Z", re.IGNORECASE)

_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)"
_DURATION_PART = re.compile(_NUMBER + r"(ms|s|m|h|d)")
_SIZE = re.compile(_NUMBER + r"[ ]?([A-Za-z]{0,3})")
_TOKENS = re.compile(_NUMBER + r"([kKmM]?)")
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def boolean(text: str) -> bool:
    word = text.lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ValueError("neither yes nor no")
    return word in TRUE_WORDS


def duration(text: str) -> float:
    """Seconds from "90s", "15m", "1h30m", "250ms", or a plain number of seconds."""
    if re.fullmatch(_NUMBER, text):
        seconds = float(text)
    else:
        parts = [(match[1], match[2]) for match in _DURATION_PART.finditer(text)]
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError("not a duration")
        seconds = sum(float(number) * DURATION_UNITS[unit] for number, unit in parts)
    if seconds > LONGEST_DURATION_S:
        raise ValueError("longer than a year")
    return seconds


def positive_duration(text: str) -> float:
    seconds = duration(text)
    if seconds <= 0:
        raise ValueError("no time at all")
    return seconds


def size(text: str) -> int:
    """Bytes from "64GiB", "512MB", or a plain number of bytes."""
    match = _SIZE.fullmatch(text)
    factor = SIZE_UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError("not a size")
    size_bytes = math.floor(float(match[1]) * factor)
    if not 1 <= size_bytes <= 2**50:
        raise ValueError("out of range")
    return size_bytes


def tokens(text: str) -> int:
    """Tokens from "32768", "32k" (32000) or "32K" (32768)."""
    match = _TOKENS.fullmatch(text)
    if match is None:
        raise ValueError("not a number of tokens")
    count = float(match[1]) * TOKEN_UNITS[match[2]]
    if count != math.floor(count):
        raise ValueError("not a whole number of tokens")
    if not 1 <= count <= LONGEST_CONTEXT:
        raise ValueError("out of range")
    return math.floor(count)


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise ValueError("not a whole number")
        if not lowest <= int(text) <= highest:
            raise ValueError("out of range")
        return int(text)

    return parse


def fraction(lowest: float, highest: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{0,9}\.?[0-9]{1,15}", text):
            raise ValueError("not a number")
        if not lowest <= float(text) <= highest:
            raise ValueError("out of range")
        return float(text)

    return parse


def choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"not one of them{did_you_mean(text.lower(), words)}")
        return text

    return parse


def host(text: str) -> str:
    """An address or a host name to listen on."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if re.fullmatch(r"[0-9.]+", text) or not _HOST_NAME.fullmatch(text):
            raise ValueError("neither an address nor a host name") from None
    return text


def absolute_path(text: str) -> str:
    """An absolute, normalised path; a relative one starts at the current directory, ~ is the home directory."""
    if _CONTROL.search(text):
        raise ValueError("a path with control characters")
    expanded = os.path.expanduser(text)  # noqa: PTH111 - os.path.abspath goes with it
    if expanded.startswith("~"):
        raise ValueError("no home directory is known for ~")
    return os.path.abspath(expanded)  # noqa: PTH100 - Path.absolute() keeps ".."


def secret(text: str) -> str:
    """A key that fits into an HTTP header."""
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("white space, control or non-ASCII characters in a key")
    return text


def words(text: str) -> tuple[str, ...]:
    """The items of a list that is separated by commas or white space."""
    return tuple(item for item in re.split(r"[,\s]+", text) if item)


def did_you_mean(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """' (did you mean X)' for the closest known word, else nothing. What all words begin with is no likeness."""
    by_stem = {name.removeprefix(prefix): name for name in known}
    close = get_close_matches(word.removeprefix(prefix), by_stem, n=1)
    return f" (did you mean {by_stem[close[0]]})" if close else ""


def masked_url(text: str) -> str:
    """The text without user name and password of a URL in it."""
    return re.sub(r"(://)[^/\s]*@", r"\1***@", text)


def masked_word(text: str) -> str:
    """A word of a command line, or any value, without the secrets that its form shows."""
    option, equals, _ = text.partition("=")
    if equals and SECRET_OPTION.fullmatch(option):
        return f"{option}=***"
    return masked_url(text)


LARGEST_FILE_BYTES = 2**20


def read_value(path: str) -> str:
    """The file's text less the white space at its end. ValueError says what is wrong with the file."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise ValueError(f"the file cannot be read: {reason}") from exc
    if len(data) > LARGEST_FILE_BYTES:
        raise ValueError(f"the file is larger than {LARGEST_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as exc:
        raise ValueError("the file is not UTF-8 text") from exc
    if not text:
        raise ValueError("the file is empty")
    return text

"""Parsers of configuration values, one per kind of value, and of values in files (`NAME_FILE=/run/secrets/x`).

Each raises ValueError with a short reason; the caller adds the name, what is allowed and an example.
"""

import math
import os
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from enum import StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from berth.plan import LOCAL_ORIGINS, EngineName, OpenTo

Word = TypeVar("Word", bound=StrEnum)

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
LONGEST_SOCKET_BYTES = 107 - len(".4194304")  # supervisord binds <socket>.<pid> first; sun_path holds 108 with a NUL
QUOTES = ('"', "'")
AUTO_WORKERS = 0  # "auto" until the CPUs are counted
CHOOSABLE_ENGINES = (EngineName.VLLM, EngineName.SGLANG, EngineName.TRTLLM)
LARGEST_FILE_BYTES = 2**20
SAMPLERS = (
    *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
    *("always_on", "always_off", "traceidratio"),
)
SECRET_NAME = re.compile(r"(key|token|secret|password)\Z", re.IGNORECASE)
SECRET_FLAGS = ("--api-key", "--admin-api-key", "--hf-token", "--ssl-keyfile-password")  # the engines' own
_ABBREVIATIONS = "|".join(  # which the engines' parsers (argparse) take
    flag[:end].replace("-", "[-_]") for flag in SECRET_FLAGS for end in range(len("--") + 1, len(flag))
)
SECRET_OPTION = re.compile(rf"(--.*(key|token|secret|password)|{_ABBREVIATIONS})\Z", re.IGNORECASE)

_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)"
_DURATION_PART = re.compile(_NUMBER + r"(ms|s|m|h|d)")
_SIZE = re.compile(_NUMBER + r"[ ]?([A-Za-z]{0,3})")
_TOKENS = re.compile(_NUMBER + r"([kKmM]?)")
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"
)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._*-]+|\[[0-9a-f:.]+\])(?::(?:[0-9]{1,5}|\*))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def boolean(text: str) -> bool:
    word = text.lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ValueError("not a boolean")
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
        raise ValueError("must be greater than 0")
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
            raise ValueError(f"unknown value{did_you_mean(text.lower(), words)}")
        return text

    return parse


def member(kind: type[Word]) -> Callable[[str], Word]:
    """One of the words of an enum."""
    word = choice(*kind)
    return lambda text: kind(word(text))


def host(text: str) -> str:
    """An address or a host name to listen on."""
    try:
        ip_address(text)
    except ValueError:
        if re.fullmatch(r"[0-9.]+", text) or not _HOST_NAME.fullmatch(text):
            raise ValueError("not an address or a host name") from None
    return text


def http_url(text: str) -> str:
    """The URL of a server, without user, query and fragment."""
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("not an http:// or https:// URL")
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("a URL with a user, a query or a fragment: keys go into headers")
    return text.rstrip("/")


def absolute_path(text: str) -> str:
    """An absolute, normalised path. Relative ones start at the current directory, `~` is the home directory."""
    if _CONTROL.search(text):
        raise ValueError("control characters in a path")
    if text.startswith(QUOTES) or text.endswith(QUOTES):
        raise ValueError("begins or ends with a quote: remove it")
    expanded = os.path.expanduser(text)  # noqa: PTH111 - os.path.abspath goes with it
    if expanded.startswith("~"):
        raise ValueError("unknown home directory")
    return os.path.abspath(expanded)  # noqa: PTH100 - Path.absolute() keeps ".."


def unquoted(text: str) -> str:
    """The text without white space around it, and without one pair of quotes around it."""
    text = text.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in QUOTES
    if quoted and (text[0] not in text[1:-1] or text[1] in "{["):  # two quoted words of YAML are not one value
        return text[1:-1].strip()
    return text


def secret(text: str) -> str:
    """A key that fits into an HTTP header."""
    if text.startswith(QUOTES) or text.endswith(QUOTES):
        raise ValueError("begins or ends with a quote, which belongs to no key: remove it")
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("white space, control or non-ASCII characters in a key")
    return text


def words(text: str) -> tuple[str, ...]:
    """The items of a list that is separated by commas or white space."""
    return tuple(item for item in re.split(r"[,\s]+", text) if item)


def did_you_mean(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """' (did you mean X)' for the closest known word, else nothing. A prefix that all words share does not count."""
    by_stem = {name.removeprefix(prefix): name for name in known}
    close = get_close_matches(word.removeprefix(prefix), by_stem, n=1)
    return f" (did you mean {by_stem[close[0]]})" if close else ""


def engine_order(text: str) -> tuple[EngineName, ...]:
    """The value of BERTH_ENGINES."""
    names = words(text)
    for name in names:
        if name == EngineName.SIM:
            raise ValueError("sim is never chosen automatically; name it in BERTH_MODELS: m=any@sim")
        if name not in CHOOSABLE_ENGINES:
            raise ValueError(f"unknown engine {name!r}{did_you_mean(name.lower(), CHOOSABLE_ENGINES)}")
    if len(set(names)) < len(names) or not names:
        raise ValueError("duplicate engine" if names else "no engine given")
    return tuple(EngineName(name) for name in names)


def secrets(text: str) -> tuple[str, ...]:
    """A list of keys, each kept once."""
    keys = tuple(dict.fromkeys(secret(word) for word in words(text)))
    if not keys:
        raise ValueError("no key given")
    return keys


def fetch_hosts(text: str) -> tuple[str, ...] | None:
    """The value of BERTH_FETCH_HOSTS; None for `public`, an empty tuple for `none`."""
    names = tuple(dict.fromkeys(word.lower().removesuffix(".") for word in words(text)))
    if names in (("public",), ("none",)):
        return None if names == ("public",) else ()
    if not names or {"public", "none"} & set(names):
        raise ValueError("public or none together with a host" if names else "no host given")
    for name in names:
        if ":" in name or "/" in name or "*" in name:
            raise ValueError(f"{name!r}: give hosts alone, without scheme, port, path or '*'")
        try:
            host(name)
        except ValueError as exc:
            raise ValueError(f"{name!r} is {exc}") from exc
    return names


def origins(text: str) -> tuple[str, ...]:
    """The value of BERTH_CORS_ORIGINS: origins of web pages, in lower case; an empty tuple for `none`."""
    found = tuple(dict.fromkeys(word.lower().removesuffix("/") for word in words(text)))
    if found == ("none",):
        return ()
    for origin in found:
        if origin not in ("*", LOCAL_ORIGINS, "null") and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is not an origin: give scheme and host, without a path")
    if not found:
        raise ValueError("no origin given")
    return found


def open_to(text: str) -> OpenTo:
    return member(OpenTo)(text.lower())


def networks(text: str) -> tuple[str, ...]:
    """Networks in the form address/length; an empty tuple for `none`."""
    found = tuple(dict.fromkeys(words(text)))
    if found == ("none",):
        return ()
    if not found:
        raise ValueError("no address given")
    try:
        return tuple(str(ip_network(word)) for word in found)
    except ValueError as exc:
        raise ValueError(f"{exc}: give an address or a network such as 10.0.0.0/8") from exc


def workers(text: str) -> int:
    return AUTO_WORKERS if text == "auto" else whole_number(1, 64)(text)


def port(text: str) -> int:
    if re.match(r"(tcp|udp)://", text):
        raise ValueError("set by Kubernetes for a service named berth; set enableServiceLinks: false for the pod")
    return whole_number(1, 65535)(text)


def socket_dir(text: str) -> str:
    """A directory for supervisord's Unix socket."""
    path = absolute_path(text)
    if re.search(r"[;\"]", path):
        raise ValueError("contains ';' or '\"', which supervisord's configuration does not support")
    excess = len(os.fsencode(path)) + len("/supervisor.sock") - LONGEST_SOCKET_BYTES
    if excess > 0:
        raise ValueError(f"{excess} bytes too long for the Unix socket in it")
    return path


def masked_url(text: str) -> str:
    """The text with user name and password of a URL masked."""
    return re.sub(r"(://)[^/\s]*@", r"\1***@", text)


def masked_option(word: str) -> str:
    """A command-line word with the value of a secret `--option=value` masked."""
    option, equals, _ = word.partition("=")
    return f"{option}=***" if equals and SECRET_OPTION.fullmatch(option) else word


def masked_word(text: str) -> str:
    """A command-line word or any other value, with the secrets that its form reveals masked."""
    return masked_url(masked_option(text))


def read_value(path: str) -> str:
    """The file's text without trailing white space. ValueError with the reason if it cannot be used."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise ValueError(f"cannot read the file: {reason}") from exc
    if len(data) > LARGEST_FILE_BYTES:
        raise ValueError(f"the file is larger than {LARGEST_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as exc:
        raise ValueError("the file is not UTF-8 text") from exc
    if not text:
        raise ValueError("the file is empty")
    return text

"""JSON as its writer spelled it, and JSON that only most readers accept.

orjson changes what it reads and writes again: 1.50 becomes 1.5, and an integer of 30 digits a float. It also rejects
what Python and JavaScript read: a lone surrogate, 1e400, NaN. Four rules hold here:

1. A number keeps its digits (`Number`), so that what passes through is what was written.
2. Requests: a lone surrogate, which no tokenizer reads, becomes U+FFFD. NaN, Infinity and numbers beyond a double's
   range are allowed in what is only passed on (schemas, arguments), not where an engine would calculate with them.
3. Responses: a lone surrogate stays, as an escape. NaN and Infinity become null: no JSON for JavaScript.
4. Text that is JSON already is embedded unchanged (`embeddable`); an object that becomes text is the text it was read
   from (`Spelled`).
"""

import json
import math
import re
from typing import Any, Final, Self

import msgspec
import orjson

MOST_ODD_BYTES: Final = 4 << 20  # of a document that is not read at the first attempt
MOST_INFINITE_BYTES: Final = 1 << 20  # of one with NaN, Infinity or a number out of range
_MOST_ESCAPES: Final = 20_000  # of surrogates, in a document with a lone one
DEEPEST: Final = 254  # nesting that orjson writes
_LARGEST: Final = 2**64 - 1  # orjson's integers
_SURROGATE_ESCAPE: Final = re.compile(rb"(?<!\\)(\\++)u([dD][89a-fA-F][0-9a-fA-F]{2})")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ONE_LINE: Final = str.maketrans("\r\n", "  ")
_STRING_OR_CONSTANT: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|-?Infinity|NaN')


class Number(float):
    """A number whose text differs from what would be written for its value."""

    __slots__ = ("text",)

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


class Spelled(dict[str, Any]):
    """An object, and the text that it was read from."""

    __slots__ = ("text",)

    text: str


def text_of(value: Any) -> str:
    """As its writer spelled it."""
    return value.text if isinstance(value, Spelled) else dumps(value).decode()


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:30]} is out of range")
    return value if orjson.dumps(value) == text.encode() else Number(text)


def _any_number(text: str) -> float:
    value = float(text)
    return value if orjson.dumps(value) == text.encode() else Number(text)


def _integer(text: str) -> int | float:
    """Python refuses to read an integer of more than 4,300 digits."""
    return int(text) if len(text) <= len(str(_LARGEST)) else Number(text)


# The document of a client, which keeps its spelling. msgspec.DecodeError, UnicodeDecodeError or RecursionError for
# anything else; `read_odd` may still read it.
read: Final = msgspec.json.Decoder(float_hook=_number).decode
_ODD: Final = json.JSONDecoder(parse_float=_any_number, parse_int=_integer, parse_constant=Number)
_ENGINES: Final = json.JSONDecoder(parse_float=_any_number, parse_int=_integer, parse_constant=lambda _name: None)


def read_odd(data: bytes) -> Any:
    """A client's document that `read` rejects. ValueError for what is no JSON for anyone, RecursionError where it is
    too deep.
    """
    if len(data) > MOST_ODD_BYTES or data.lower().count(b"\\ud") > _MOST_ESCAPES:
        raise ValueError("too much odd JSON to be read here")
    whole = whole_characters(data)
    try:
        return read(whole)
    except msgspec.DecodeError:
        if len(data) > MOST_INFINITE_BYTES:
            raise
        return _ODD.decode(whole.decode())


def loads(data: bytes | str) -> Any:
    """The document of an engine or a model. ValueError for what is no JSON for anyone."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        if len(data) > MOST_ODD_BYTES:
            raise
        try:
            return _ENGINES.decode(data if isinstance(data, str) else bytes(data).decode())
        except (ValueError, RecursionError):
            raise exc from None


def read_back(data: bytes) -> Any:
    """With the spelling that was kept when it was written. ValueError as for `loads`."""
    try:
        return read(data)
    except (ValueError, RecursionError):
        return loads(data)


def for_all_readers(data: bytes) -> bytes:
    """One line of JSON for all clients, of a document that only `loads` reads."""
    return (embeddable(data.decode()) or "").translate(_ONE_LINE).encode()


def dumps(value: Any) -> bytes:
    """Numbers as they were written, lone surrogates as escapes."""
    try:
        return orjson.dumps(value, default=spelled)
    except orjson.JSONEncodeError:
        return spelled_out(value)


def spelled(value: Any) -> orjson.Fragment:
    """For `default` of orjson.dumps."""
    if isinstance(value, Number):
        return orjson.Fragment(value.text)
    raise TypeError(f"{type(value)} is no JSON")


def spelled_out(value: Any, *, most: int | None = None) -> bytes:
    """What orjson refuses to write: lone surrogates, large integers, any depth. It takes a microsecond for each value:
    ValueError where there are more than `most`. TypeError for what is no JSON.
    """
    written: list[bytes] = []
    left = math.inf if most is None else most
    waiting = [value]  # bytes are written as they are
    while waiting:
        match waiting.pop():
            case bytes() as text:
                written.append(text)
            case dict() | list() | tuple() as items if (left := left - len(items)) < 0:
                raise ValueError(f"more than {most} values")
            case dict() as fields:
                parts = [
                    part for key, inner in fields.items() for part in (b",", json.dumps(key).encode(), b":", inner)
                ]
                waiting += [b"}", *reversed(parts[1:]), b"{"]
            case list() | tuple() as items:
                parts = [part for inner in items for part in (b",", inner)]
                waiting += [b"]", *reversed(parts[1:]), b"["]
            case str() | int() as plain:
                written.append(json.dumps(plain).encode())
            case other:
                written.append(orjson.dumps(other, default=spelled))
    return b"".join(written)


def is_finite(value: Any) -> bool:
    """It contains neither NaN nor a number beyond a double's range."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, float) and not math.isfinite(item):
            return False
    return True


def embeddable(text: str, *, constants: bool = True) -> str | None:
    """The text unchanged where it is JSON, to be embedded in a response; None where it is not. NaN and Infinity become
    null, or make it no JSON (`constants`); lone surrogates become escapes.
    """
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        if len(text) > MOST_ODD_BYTES:
            return None
        found: list[str] = []
        try:
            json.loads(text, parse_constant=found.append, parse_int=float)
        except (ValueError, RecursionError):
            return None
        if found and not constants:
            return None
        if found:
            text = _STRING_OR_CONSTANT.sub(lambda found: found[0] if found[0].startswith('"') else "null", text)
        return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text


def depth(value: Any) -> int:
    """How many objects and lists are nested in it."""
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        item, level = waiting.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, level)
            waiting += [(inner, level + 1) for inner in (item.values() if isinstance(item, dict) else item)]
    return deepest


def whole_characters(data: bytes) -> bytes:
    """Every escape of a lone surrogate as one of U+FFFD."""
    lone: list[int] = []  # where their escapes end
    high_end = 0  # of a high surrogate before; 0: of none
    for escape in _SURROGATE_ESCAPE.finditer(data):
        if len(escape[1]) % 2 == 0:  # the backslash is escaped itself
            continue
        is_low = escape[2][1:2] in b"cCdDeEfF"
        pairs = is_low and high_end == escape.start() and len(escape[1]) == 1
        if high_end and not pairs:
            lone.append(high_end)
        if is_low and not pairs:
            lone.append(escape.end())
        high_end = 0 if is_low else escape.end()
    whole = bytearray(data)
    for end in (*lone, high_end) if high_end else lone:
        whole[end - 4 : end] = b"fffd"
    return bytes(whole)

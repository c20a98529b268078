"""Requests that are nearly valid: the structure of a real one, with something wrong in it. A seed makes the same ones.

A mutation replaces, removes, doubles, renames or adds a value anywhere in the request, or damages its bytes.
"""

import random
from collections.abc import Iterator
from typing import Any, Final

import orjson

from berth.canonical import Json
from berth.dialects.requests.fields import EVERY_FIELD
from tests.fuzz.requests import SMALLEST, lists

_RAW: Final = "raw-json-"  # a string that becomes JSON that orjson would not write
_RAWS: Final = (
    *("1e400", "-1e400", "NaN", "Infinity", "1" + "0" * 400, "-0.0", "123456789012345678901234567890", "1E5"),
    *(r'"\ud800"', r'"\udc00\ud800"', r'"\u0000"', '"\x7f"', '{"a":1,"a":2}', "[" * 300 + "]" * 300),
    '{"a":' * 250 + "1" + "}" * 250,
)
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 7, 0.5, 1e308, 2**31, 2**53, 2**63, -(2**63), 1e-320),
    *("", " ", "x", "0", "true", "null", "é\u2028🦊", "\n\r\t", "a" * 5000, "data:image/png;base64,x", "/etc/passwd"),
    *([], {}, [[]], [None], [{}], {"": ""}, {"type": "text"}, {"type": "object"}, ["a", 1, None], [[1, 2], [3]]),
    *(
        {"role": "user", "content": "x"},
        {"type": "function", "function": {"name": "f"}},
        [{"type": "text", "text": "t"}],
    ),
    *({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string"}}}, {"type": "json_object"}),
    *(f"{_RAW}{place}" for place in range(len(_RAWS))),
)
_NAMES: Final = (*sorted(EVERY_FIELD), "", "é", "a" * 300, "__class__", "thinking", "options", "parameters", "text")
Place = tuple[str | int, ...]


def requests(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Paths and bodies."""
    chance = random.Random(seed)
    documents = {path: [document, *_longer(path)] for path, document in SMALLEST.items()}
    for _ in range(count):
        path = chance.choice([*documents])
        document = chance.choice(documents[path])
        if chance.random() < 0.4:
            document = document | {"stream": True}
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            document = mutated(chance, document)
        yield path, _damaged(chance, written(document))


def _longer(path: str) -> list[Json]:
    try:
        return [*lists(path, 3).values()]
    except KeyError:
        return []


def mutated(chance: random.Random, document: Any) -> Any:
    """With one thing wrong in it."""
    if not document or not isinstance(document, dict):
        return chance.choice(_VALUES)
    place = chance.choice([*_places(document)])
    what = chance.random()
    if what < 0.5:
        return _changed(document, place, lambda _: chance.choice(_VALUES))
    if what < 0.65:
        return _changed(document, place, None)
    if what < 0.75:
        return _changed(document, place, lambda value: [value, value])
    if what < 0.85:
        other = chance.choice([*_places(document)])
        return _changed(document, place, lambda _: _at(document, other))
    return document | {chance.choice(_NAMES): chance.choice(_VALUES)}


def _places(value: Any, before: Place = ()) -> Iterator[Place]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*before, key)
        yield from _places(part, (*before, key))


def _at(value: Any, place: Place) -> Any:
    for key in place:
        value = value[key]
    return value


def _changed(value: Any, place: Place, change: Any) -> Any:
    """A copy with another value there; None: without it."""
    key, *rest = place
    copy: Any = {**value} if isinstance(value, dict) else [*value]
    if rest:
        copy[key] = _changed(value[key], tuple(rest), change)
    elif change is None:
        del copy[key]
    else:
        copy[key] = change(value[key])
    return copy


def written(document: Any) -> bytes:
    """As JSON."""
    text = orjson.dumps(document)
    for place in reversed(range(len(_RAWS))):
        text = text.replace(f'"{_RAW}{place}"'.encode(), _RAWS[place].encode())
    return text


def _damaged(chance: random.Random, text: bytes) -> bytes:
    if chance.random() > 0.08:
        return text
    place = chance.randrange(len(text) + 1)
    return chance.choice(
        (
            text[:place],
            text[:place] + b"\xff\xfe" + text[place:],
            text[:place] + b"\0" + text[place:],
            b"\xef\xbb\xbf" + text,
            text + text,
            b"[" + text + b"]",
            b"",
        )
    )

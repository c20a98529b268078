"""multipart/form-data (RFC 7578, RFC 2046), as far as routing needs it: the positions of fields in the body. Files are
neither copied nor parsed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from berth.errors import InvalidRequestError

FORM: Final = b"multipart/form-data"
MOST_PARTS: Final = 200
MOST_HEADER_BYTES: Final = 8192  # of one part
_PARAMETER: Final = re.compile(rb'\s*;\s*([!#-\'*+\-.^-~\w]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]*)')
_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_DISPOSITION: Final = re.compile(rb"^content-disposition:[ \t]*form-data(.*)$", re.IGNORECASE | re.MULTILINE)
_PADDING: Final = re.compile(rb"[ \t]{0,80}\r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """`start` and `end` delimit its content in the body."""

    name: str
    is_file: bool
    start: int
    end: int


def boundary_of(content_type: bytes) -> bytes:
    """InvalidRequestError for a content-type that is not a form's, or has no boundary that RFC 2046 allows."""
    kind, _, _ = content_type.partition(b";")
    if kind.strip().lower() != FORM:
        raise InvalidRequestError(
            f"content-type must be 'multipart/form-data; boundary=...', not {_formatted(content_type)}."
        )
    given = [value for name, value in _parameters(content_type[len(kind) :]) if name == b"boundary"]
    boundary = given[0] if len(given) == 1 else b""
    if not _BOUNDARY.fullmatch(boundary):
        raise InvalidRequestError(
            f"content-type must have a boundary of 1 to 70 characters allowed by RFC 2046, not {_formatted(boundary)}."
        )
    return boundary


def parts_of(body: bytes, boundary: bytes) -> list[Part]:
    """The parts in order. InvalidRequestError for a malformed form, or one with too many parts."""
    mark = b"--" + boundary
    delimiter = b"\r\n" + mark
    start = 0 if body.startswith(mark) else body.find(delimiter) + 2  # of the boundary before a part
    if start == 1:
        raise InvalidRequestError("The boundary of content-type does not occur in the body.")
    parts: list[Part] = []
    while body[start + len(mark) : start + len(mark) + 2] != b"--":
        number = len(parts)
        padding = _PADDING.match(body, start + len(mark))
        if padding is None:
            raise InvalidRequestError(f"The form is malformed: no line break after boundary {number + 1}.")
        # This line break may be the first half of the empty line, in a part without headers.
        head_start = padding.end() - 2
        head_end = body.find(b"\r\n\r\n", head_start, head_start + MOST_HEADER_BYTES)
        if head_end < 0:
            raise InvalidRequestError(
                f"Part {number} of the form is malformed: its headers do not end within {MOST_HEADER_BYTES} bytes."
            )
        end = body.find(delimiter, head_end + 4)
        if end < 0:
            raise InvalidRequestError(f"Part {number} of the form is incomplete: no boundary follows it.")
        part = _part(number, body[head_start:head_end], head_end + 4, end)
        if number == MOST_PARTS:
            raise InvalidRequestError(f"The form has more than {MOST_PARTS} parts.")
        parts.append(part)
        start = end + 2
    return parts


def _part(number: int, head: bytes, start: int, end: int) -> Part:
    found = _DISPOSITION.findall(head.replace(b"\r\n", b"\n"))
    given = [pair for text in found for pair in _parameters(text)]
    parameters = dict(given)
    name = parameters.get(b"name")
    if name is None:
        raise InvalidRequestError(f"Part {number} of the form has no 'content-disposition: form-data' with a name.")
    if len(given) > len(parameters) or any(one.endswith(b"*") for one in parameters):
        raise InvalidRequestError(
            f"Part {number} of the form says something twice, or in a way that RFC 7578 forbids (filename*): readers "
            "would not agree what it is."
        )
    is_file = b"filename" in parameters
    return Part(name=name.decode("utf-8", "replace"), is_file=is_file, start=start, end=end)


def _parameters(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The parameters in `; name="value"; ...`, up to the first that is malformed."""
    place = 0
    while match := _PARAMETER.match(text, place):
        value = match[2]
        if value.startswith(b'"'):
            value = re.sub(rb"\\(.)", rb"\1", value[1:-1])
        yield match[1].lower(), value
        place = match.end()


def _formatted(value: bytes) -> str:
    return ascii(value[:80])[1:]

"""The positions of fields in a form."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.apis.openai.multipart import MOST_PARTS, boundary_of, parts_of
from berth.errors import InvalidRequestError

EDGE = b"edge"
HEAD = b'content-disposition: form-data; name="a"\r\n\r\n'


def form(*parts: tuple[str, bytes, bytes]) -> bytes:
    """Of (name, more of the header, content)."""
    written = [
        b'--edge\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name.encode(), more, content)
        for name, more, content in parts
    ]
    return b"".join((*written, b"--edge--\r\n"))


@given(st.lists(st.tuples(st.from_regex(r"[a-z_\[\]]{1,9}", fullmatch=True), st.booleans(), st.binary(max_size=90))))
def test_finds_all_parts_and_their_contents(given_parts: list[tuple[str, bool, bytes]]) -> None:
    parts = [(name, is_file, content) for name, is_file, content in given_parts if b"\r\n--edge" not in content]
    body = form(*((name, b'; filename="x; name=y"' * is_file, content) for name, is_file, content in parts))

    found = parts_of(body, EDGE)

    assert [(part.name, part.is_file, body[part.start : part.end]) for part in found] == parts


@given(st.binary(max_size=200), st.lists(st.sampled_from([b"--edge", b"\r\n", b"--", HEAD, b"x"]), max_size=12))
def test_any_bytes_are_accepted_or_rejected(noise: bytes, pieces: list[bytes]) -> None:
    for body in (noise, b"".join(pieces), b"--edge\r\n" + noise):
        found = []
        with suppress(InvalidRequestError):
            found = parts_of(body, EDGE)
        assert all(0 <= part.start <= part.end <= len(body) for part in found)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data;charset=utf-8;BOUNDARY="a b\\c"', b"a bc"),
        (b"multipart/form-data; boundary=----WebKit7; charset=utf-8", b"----WebKit7"),
    ],
)
def test_accepts_quoted_and_unquoted_boundaries(content_type: bytes, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    ("content_type", "word"),
    [
        (b"", "multipart/form-data"),
        (b"application/json", "application/json"),
        (b"multipart/form-data", "boundary"),
        (b"multipart/form-data; boundary=" + b"x" * 71, "boundary"),
        (b'multipart/form-data; boundary="a\xff"', "boundary"),
    ],
)
def test_rejects_other_content_types(content_type: bytes, word: str) -> None:
    with pytest.raises(InvalidRequestError, match=word):
        boundary_of(content_type)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "does not occur"),
        (b"--edgeX", "no line break"),
        (b"--edge\r\nno end", "headers do not end"),
        (b"--edge\r\n" + HEAD + b"x", "incomplete"),
        (b"--edge\r\n\r\nx\r\n--edge--", "no 'content-disposition"),
        (b"--edge\r\ncontent-disposition: form-data; filename=x\r\n\r\nx\r\n--edge--", "with a name"),
        (form(*[("a", b"", b"")] * (MOST_PARTS + 1)), "more than"),
        (b'--edge\r\ncontent-disposition: form-data; name=a; name="url"\r\n\r\nx\r\n--edge--', "twice"),
        (b"--edge\r\n" + HEAD[:-4] + b"\r\n" + HEAD + b"x\r\n--edge--", "twice"),
        (b"--edge\r\ncontent-disposition: form-data; name=url; filename*=x\r\n\r\nx\r\n--edge--", "RFC 7578"),
    ],
)
def test_rejects_malformed_form_with_the_reason(body: bytes, word: str) -> None:
    with pytest.raises(InvalidRequestError, match=word):
        parts_of(body, EDGE)


def test_ignores_bytes_before_the_first_boundary() -> None:
    assert [part.name for part in parts_of(b"hello\r\n" + form(("a", b"", b"x")), EDGE)] == ["a"]

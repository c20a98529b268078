import hashlib

import pytest

from berth.errors import AuthenticationError, ForbiddenError
from berth.router.exchange.auth import Authenticator
from berth.router.exchange.web_pages import WebPages

KEYS = ("first", "second")
GATE = Authenticator([hashlib.sha256(key.encode()).hexdigest() for key in KEYS], WebPages(()))


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer first"},
        {b"authorization": b"bearer  second "},
        {b"x-api-key": b"second"},
        {b"authorization": b"Basic abc", b"x-api-key": b"first"},
        {b"authorization": b"Bearer ", b"x-api-key": b"first"},
    ],
)
def test_accepts_a_key_in_either_header(headers: dict[bytes, bytes]) -> None:
    GATE.check(headers)  # passes: no exception


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({b"authorization": b"Bearer"}, "missing_api_key"),
        ({b"authorization": b"first"}, "missing_api_key"),
        ({b"x-api-key": b"wrong"}, "invalid_api_key"),
        ({b"authorization": b"Bearer wrong", b"x-api-key": b"first"}, "invalid_api_key"),
        ({b"authorization": b"Bearer \xff\xfe"}, "invalid_api_key"),
    ],
)
def test_rejects_other_keys_without_showing_them(headers: dict[bytes, bytes], code: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        GATE.check(headers)

    assert caught.value.code == code
    assert "wrong" not in caught.value.message


def test_accepts_all_requests_without_configured_keys() -> None:
    Authenticator((), WebPages(())).check({})  # passes: no exception


FOREIGN = {b"host": b"evil.example", b"origin": b"https://evil.example"}


def test_web_pages_are_rejected_only_without_configured_keys() -> None:
    GATE.check({**FOREIGN, b"x-api-key": b"first"})
    with pytest.raises(AuthenticationError):
        GATE.check(FOREIGN)
    with pytest.raises(ForbiddenError):
        Authenticator((), WebPages(())).check(FOREIGN)

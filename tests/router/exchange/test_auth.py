import hashlib

import pytest

from berth.errors import AuthenticationError, ForbiddenError
from berth.plan import Keys, OpenTo
from berth.router.exchange.auth import Authenticator
from berth.router.exchange.peers import Peers
from berth.router.exchange.sessions import Sessions
from berth.router.exchange.web_pages import WebPages

KEYS = ("first", "second")
PRIVATE = Peers(OpenTo.PRIVATE)
NEAR, FAR = ("192.168.1.7", 1234), ("203.0.113.7", 1234)
NO_SESSIONS = Sessions(Keys())
GATE = Authenticator([hashlib.sha256(key.encode()).hexdigest() for key in KEYS], WebPages(()), PRIVATE, NO_SESSIONS)


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
    GATE.check(headers, FAR)  # passes: no exception


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
        GATE.check(headers, FAR)

    assert caught.value.code == code
    assert "wrong" not in caught.value.message


def test_without_configured_keys_accepts_all_requests_of_private_addresses() -> None:
    gate = Authenticator((), WebPages(()), PRIVATE, NO_SESSIONS)
    for _ in range(2):
        gate.check({}, NEAR)  # passes: no exception
        with pytest.raises(AuthenticationError):
            gate.check({}, FAR)


def test_a_known_address_is_no_pass_for_what_a_proxy_forwards() -> None:
    gate = Authenticator((), WebPages(()), PRIVATE, NO_SESSIONS)
    gate.check({}, NEAR)
    for header in (b"x-forwarded-for", b"forwarded"):
        with pytest.raises(ForbiddenError):
            gate.check({header: b"10.0.0.1"}, NEAR)


FOREIGN = {b"host": b"evil.example", b"origin": b"https://evil.example"}


def test_web_pages_are_rejected_only_without_configured_keys() -> None:
    GATE.check({**FOREIGN, b"x-api-key": b"first"}, NEAR)
    with pytest.raises(AuthenticationError):
        GATE.check(FOREIGN, NEAR)
    with pytest.raises(ForbiddenError):
        Authenticator((), WebPages(()), PRIVATE, NO_SESSIONS).check(FOREIGN, NEAR)

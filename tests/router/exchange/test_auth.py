import hashlib
import time
from dataclasses import replace

import pytest

from berth.errors import AuthenticationError, ForbiddenError
from berth.plan import Keys, OpenTo
from berth.plan.keys import OPEN
from berth.router.exchange.auth import _FORMS, Authenticator, may_use, require_model
from berth.router.exchange.peers import Peers
from berth.router.exchange.sessions import Sessions
from berth.router.exchange.web_pages import WebPages
from tests.fakes.api_keys import api_key, api_keys
from tests.fakes.router import route

PRIVATE = Peers(OpenTo.PRIVATE)
NEAR, FAR = ("192.168.1.7", 1234), ("203.0.113.7", 1234)
NO_SESSIONS = Sessions(Keys())
GATE = Authenticator(api_keys("first", "second"), WebPages(()), PRIVATE, NO_SESSIONS)


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
    first = GATE.check(headers, FAR)
    assert GATE.check(headers, FAR) is first  # which is remembered now


def test_what_is_remembered_of_one_header_is_no_pass_in_another() -> None:
    gate = Authenticator(api_keys("first"), WebPages(()), PRIVATE, NO_SESSIONS)
    gate.check({b"authorization": b"Bearer first"}, FAR)
    gate.check({b"authorization": b"Basic first", b"x-api-key": b"first"}, FAR)
    for headers in (
        {b"authorization": b"first"},
        {b"authorization": b"Basic first"},
        {b"x-api-key": b"Bearer first"},
        {b"authorization": b"Basic first", b"x-api-key": b"other"},
    ):
        with pytest.raises(AuthenticationError):
            gate.check(headers, FAR)


def test_few_of_the_ways_to_write_a_key_are_remembered() -> None:
    gate = Authenticator(api_keys("first"), WebPages(()), PRIVATE, NO_SESSIONS)
    for spaces in range(1, 50):
        gate.check({b"authorization": b"Bearer" + b" " * spaces + b"first"}, FAR)
        assert len(gate._bearers) <= _FORMS


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


def test_an_expired_key_is_named() -> None:
    keys = (api_key("old", name="alice", expires=1.0), api_key("new", name="bob", expires=time.time() + 60))
    gate = Authenticator(keys, WebPages(()), PRIVATE, NO_SESSIONS)

    assert gate.check({b"x-api-key": b"new"}, FAR) is keys[1]
    for _ in range(2):
        with pytest.raises(AuthenticationError, match="'alice' has expired at 1970-01-01T00:00:01") as caught:
            gate.check({b"x-api-key": b"old"}, FAR)
        assert caught.value.code == "expired_api_key"


def test_other_keys_are_valid_at_once() -> None:
    gate = Authenticator(api_keys("first"), WebPages(()), PRIVATE, NO_SESSIONS)
    gate.check({b"x-api-key": b"first"}, FAR)
    gate.replace(api_keys("second"))

    assert gate.check({b"x-api-key": b"second"}, FAR).name == "key-1"
    with pytest.raises(AuthenticationError):
        gate.check({b"x-api-key": b"first"}, FAR)


@pytest.mark.parametrize(
    ("models", "name", "allowed"),
    [
        ((), "m", True),
        (("m",), "m", True),
        (("alias",), "m", True),
        (("other",), "m", False),
        (("m",), "adapter", False),
    ],
)
def test_a_key_may_use_its_models_by_all_their_names(models: tuple[str, ...], name: str, allowed: bool) -> None:
    key, wanted = api_key("k", models=models), route(name, ["m-a"], aliases=("alias",) if name == "m" else ())
    assert may_use(key, wanted) is allowed
    if not allowed:
        with pytest.raises(ForbiddenError, match=f"may not use the model '{name}'") as caught:
            require_model(key, wanted)
        assert caught.value.code == "model_not_allowed"


def test_key_of_a_bench_is_valid_while_it_runs() -> None:
    digest, bench = hashlib.sha256(b"secret").hexdigest(), replace(OPEN, models=("chat",))
    running = {digest: bench}
    gate = Authenticator(api_keys("first"), WebPages(()), PRIVATE, NO_SESSIONS, running.get)
    assert gate.check({b"x-api-key": b"secret"}, FAR) is bench
    assert gate.check({b"x-api-key": b"first"}, FAR).name == "key-1"
    running.clear()
    with pytest.raises(AuthenticationError):
        gate.check({b"x-api-key": b"secret"}, FAR)

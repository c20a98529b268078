"""The page's sessions: only cookies that this Berth has made count, and only from its own page."""

import hashlib
import time
from dataclasses import replace

import pytest

from berth import admin_keys
from berth.errors import ForbiddenError
from berth.plan import Keys
from berth.plan.keys import OPEN
from berth.router.exchange.sessions import LASTS_S, Role, Session, Sessions, require_own_page
from tests.fakes.api_keys import api_key, api_keys

KEYS = Keys(
    session_secret="ab" * 32,
    api_keys=api_keys("user key"),
    admin_key_digest=hashlib.sha256(b"admin key").hexdigest(),
)
OWN = {b"host": b"box:8000", b"origin": b"http://box:8000"}


def cookie_of(sessions: Sessions, key: str) -> bytes:
    """As a browser sends it."""
    session = sessions.sign_in(key)
    assert session is not None
    return sessions.cookie(session).partition(b";")[0]


def read(sessions: Sessions, cookie: bytes) -> Session | None:
    return sessions.of({b"cookie": cookie}, changes=False)


@pytest.mark.parametrize(("key", "role"), [("user key", Role.USER), ("admin key", Role.ADMIN)])
def test_a_key_gets_a_session_of_its_level(key: str, role: Role) -> None:
    sessions = Sessions(KEYS)
    session = read(sessions, b"other=1; " + cookie_of(sessions, key) + b"; more=2")
    assert session is not None
    assert session.role is role
    assert 0 < session.ends - time.time() <= LASTS_S


@pytest.mark.parametrize("key", ["", "wrong", "user key ", KEYS.admin_key_digest, KEYS.api_keys[0].digests[0]])
def test_other_keys_get_none(key: str) -> None:
    assert Sessions(KEYS).sign_in(key) is None


def test_there_are_none_without_a_secret() -> None:
    keys = Keys(admin_key_digest=KEYS.admin_key_digest)
    assert Sessions(keys).sign_in("admin key") is None
    assert read(Sessions(keys), cookie_of(Sessions(KEYS), "admin key")) is None


def test_the_cookie_is_closed_to_scripts_other_sites_and_plain_http_where_there_is_tls() -> None:
    plain, secure = (Sessions(KEYS, secure=secure) for secure in (False, True))
    session = plain.sign_in("user key")
    assert plain.cookie(session).split(b"; ")[1:] == [b"Path=/", b"HttpOnly", b"SameSite=Strict", b"Max-Age=43200"]
    assert secure.cookie(session).startswith(b"__Host-berth-")
    assert b"Secure" in secure.cookie(session).split(b"; ")


def test_signing_out_removes_the_cookie() -> None:
    sessions = Sessions(KEYS)
    name, _, value = sessions.cookie(None).partition(b"=")
    assert cookie_of(sessions, "user key").startswith(name + b"=")
    assert value.startswith(b";")
    assert value.endswith(b"Max-Age=0")


def test_every_changed_character_of_a_cookie_is_noticed() -> None:
    sessions = Sessions(KEYS)
    name, _, value = cookie_of(sessions, "user key").partition(b"=")
    for at in range(len(value)):
        changed = value[:at] + (b"0" if value[at : at + 1] != b"0" else b"1") + value[at + 1 :]
        assert read(sessions, name + b"=" + changed) is None, changed
    for forged in (b"", b".", b"...", value[:-1], value + b"0", b"admin" + value[4:], b"\xff.\xff.1.\xff"):
        assert read(sessions, name + b"=" + forged) is None, forged


def test_a_session_ends_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(KEYS)
    cookie, now = cookie_of(sessions, "user key"), time.time()
    monkeypatch.setattr(time, "time", lambda: now + LASTS_S - 2)
    assert read(sessions, cookie) is not None
    monkeypatch.setattr(time, "time", lambda: now + LASTS_S + 1)
    assert read(sessions, cookie) is None


def test_a_session_ends_with_its_key_and_with_a_restart() -> None:
    cookie = cookie_of(Sessions(KEYS), "user key")
    without = Keys(session_secret=KEYS.session_secret, admin_key_digest=KEYS.admin_key_digest)
    assert read(Sessions(without), cookie) is None
    assert read(Sessions(Keys(session_secret="cd" * 32, api_keys=KEYS.api_keys)), cookie) is None


def test_a_key_that_has_become_another_level_must_sign_in_again() -> None:
    cookie = cookie_of(Sessions(KEYS), "admin key")
    keys = Keys(session_secret=KEYS.session_secret, api_keys=api_keys("admin key"))
    assert read(Sessions(keys), cookie) is None


def test_a_key_of_the_shell_gets_a_session_that_ends_with_it() -> None:
    sessions = Sessions(replace(KEYS, admin_secret="shell"))
    ends = time.time() + 60
    session = sessions.sign_in(admin_keys.make("shell", ends))
    assert session == Session(role=Role.ADMIN, key="made", ends=int(ends))
    assert read(sessions, sessions.cookie(session).partition(b";")[0]) == session
    assert sessions.owner(session) is OPEN
    assert sessions.sign_in(admin_keys.make("shell", time.time() - 1)) is None
    assert sessions.sign_in(admin_keys.make("other", ends)) is None


def test_sessions_follow_the_keys() -> None:
    sessions = Sessions(KEYS)
    cookie = cookie_of(sessions, "user key")
    session = read(sessions, cookie)
    assert session is not None
    assert sessions.owner(session) is KEYS.api_keys[0]
    sessions.replace(replace(KEYS, api_keys=(api_key("new key", expires=time.time() - 1),)))
    assert read(sessions, cookie) is None
    assert sessions.sign_in("new key") is None  # it has expired


@pytest.mark.parametrize(
    ("headers", "own"),
    [
        ({b"sec-fetch-site": b"same-origin"}, True),
        ({b"sec-fetch-site": b"none"}, True),
        ({b"sec-fetch-site": b"same-site", **OWN}, False),
        ({b"sec-fetch-site": b"cross-site", **OWN}, False),
        ({b"sec-fetch-site": b"", **OWN}, False),
        (OWN, True),
        ({**OWN, b"origin": b"https://box:8000"}, True),
        ({**OWN, b"origin": b"http://box:8001"}, False),
        ({**OWN, b"origin": b"http://box"}, False),
        ({**OWN, b"origin": b"null"}, False),
        ({b"host": b"", b"origin": b"file://"}, False),
        ({b"host": b"box:8000"}, False),
        ({}, False),
    ],
)
def test_only_the_own_page_may_change_something(headers: dict[bytes, bytes], own: bool) -> None:
    if own:
        require_own_page(headers)
    else:
        with pytest.raises(ForbiddenError):
            require_own_page(headers)


@pytest.mark.parametrize("kind", [b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data", b""])
def test_a_session_sends_json(kind: bytes) -> None:
    sessions = Sessions(KEYS)
    headers = {**OWN, b"cookie": cookie_of(sessions, "admin key")}
    assert sessions.of({**headers, b"content-type": b"application/json; charset=utf-8"}, changes=True) is not None
    assert sessions.of(headers, changes=True) is not None
    with pytest.raises(ForbiddenError):
        sessions.of({**headers, b"content-type": kind}, changes=True)

"""Sessions of the page at /ui/: a signed cookie in place of a key, so that no key stays in a browser.

A person signs in with an API key or with the admin key, and gets a cookie that names the level, the key and the time at
which it ends. Its signature is made with a secret of this start of Berth: every worker can check it, nothing is stored,
and a restart ends all sessions. So does the removal of the key.

A browser sends the cookie with each request to this server, whichever page asks for it. So a request that changes
something, or costs something, counts only if it comes from Berth's own page: browsers say that in `Sec-Fetch-Site`,
or, over plain HTTP, in `Origin`. A request with a key in its header is none of this.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from berth import admin_keys
from berth.errors import ForbiddenError
from berth.plan import ApiKey, Keys
from berth.plan.keys import OPEN
from berth.router.exchange.responses import JSON

LASTS_S: Final = 12 * 3600
_KEY_DIGITS: Final = 16  # of its digest, in the cookie
_MADE: Final = "made"  # in place of a digest: a key of `berth key admin`
_SAME_SITE: Final = (b"same-origin", b"none")  # "none": the user typed the address


class Role(StrEnum):
    """What a session may do."""

    USER = "user"  # what an API key may: read, and send requests to models
    ADMIN = "admin"  # that, and change what runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    role: Role
    key: str  # the first digits of the key's digest
    ends: int  # Unix seconds


class Sessions:
    """Makes and checks them."""

    def __init__(self, keys: Keys, *, secure: bool = False) -> None:
        """Without a secret there are no sessions. `secure`: clients use TLS."""
        self._secret = keys.session_secret.encode()
        self.replace(keys)
        # Browsers send a host's cookies to all its ports: the name keeps two Berths on one host apart.
        label = hashlib.sha256(b"name" + self._secret).hexdigest()[:8]
        self._name = f"{'__Host-' if secure else ''}berth-{label}".encode()
        self._attributes = f"; Path=/; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}".encode()

    def replace(self, keys: Keys) -> None:
        """From now on these keys are valid, and no others: sessions of others have ended."""
        self._admin_secret = keys.admin_secret
        self._by_digest = {digest: (Role.USER, key) for key in keys.api_keys for digest in key.digests}
        if keys.admin_key_digest:
            self._by_digest[keys.admin_key_digest] = (Role.ADMIN, OPEN)
        self._owners = {(role, digest[:_KEY_DIGITS]): key for digest, (role, key) in self._by_digest.items()}
        if keys.admin_secret:
            self._owners[Role.ADMIN, _MADE] = OPEN

    def sign_in(self, key: str) -> Session | None:
        """None for a key that is none of this Berth's, or that has expired."""
        if not self._secret:
            return None
        digest, now = hashlib.sha256(key.encode()).hexdigest(), int(time.time())
        role, owner = self._by_digest.get(digest, (None, OPEN))
        if role is None and (made := admin_keys.ends_of(key.encode(), self._admin_secret)) is not None and now < made:
            return Session(role=Role.ADMIN, key=_MADE, ends=int(min(made, now + LASTS_S)))
        if role is None or 0 < owner.expires <= now:
            return None
        return Session(role=role, key=digest[:_KEY_DIGITS], ends=now + LASTS_S)

    def owner(self, session: Session) -> ApiKey:
        """Whose requests those of the session are: those of the key that it was made for; of no one for an operator."""
        return self._owners[session.role, session.key]

    def cookie(self, session: Session | None) -> bytes:
        """The value of Set-Cookie; None ends the browser's session."""
        if session is None:
            return self._name + b"=" + self._attributes + b"; Max-Age=0"
        text = f"{session.role}.{session.key}.{session.ends}".encode()
        return self._name + b"=" + text + b"." + self._signature(text) + self._attributes + b"; Max-Age=%d" % LASTS_S

    def of(self, headers: Mapping[bytes, bytes], *, changes: bool) -> Session | None:
        """The valid session of a request. ForbiddenError for one that `changes` something, or costs something, and that
        another page may have sent.
        """
        start = self._name + b"="
        pairs = [pair.strip() for pair in headers.get(b"cookie", b"").split(b";")]
        text, _, signature = next((pair for pair in pairs if pair.startswith(start)), start)[len(start) :].rpartition(
            b"."
        )
        if not self._secret or not hmac.compare_digest(signature, self._signature(text)):
            return None
        role, key, ends = text.decode().split(".")
        session = Session(role=Role(role), key=key, ends=int(ends))
        if session.ends <= time.time() or (session.role, key) not in self._owners:
            return None
        if changes:
            require_own_page(headers)
            if headers.get(b"content-type", JSON).partition(b";")[0].strip().lower() != JSON:
                raise ForbiddenError("A session sends application/json.", code="session_sends_json")
        return session

    def _signature(self, text: bytes) -> bytes:
        return hmac.new(self._secret, b"session " + text, hashlib.sha256).hexdigest().encode()


def require_own_page(headers: Mapping[bytes, bytes]) -> None:
    """ForbiddenError, unless the browser says that a page of this server sent the request."""
    site = headers.get(b"sec-fetch-site")
    origin = headers.get(b"origin", b"").partition(b"://")[2]
    if site in _SAME_SITE or (site is None and origin and origin == headers.get(b"host")):
        return
    raise ForbiddenError(
        "Only Berth's own page may use its session. Programs send a key: 'Authorization: Bearer KEY'.",
        code="origin_not_allowed",
    )

"""Authentication of clients: the API keys of BERTH_API_KEYS, as digests, and the models that each key may use.

Keys guard the inference APIs, the list of models and /status, which shows reasons and an engine's last log lines.
/health and /ready are open because load balancers and probes have no keys; /metrics is open because it contains only
names and numbers, and a Prometheus that also scrapes the engines has no key for those either. `/` and /api/version are
open because Ollama's clients request them first; they disclose nothing about this server.

Without keys, the same paths are closed to clients without a private address (berth.router.exchange.peers), and to web
pages that are not allowed.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from berth.errors import AuthenticationError, ForbiddenError
from berth.plan import ApiKey, ModelRoute
from berth.plan.keys import OPEN
from berth.router.exchange.peers import Peers
from berth.router.exchange.sessions import Sessions
from berth.router.exchange.web_pages import WebPages

_FORMS: Final = 4  # in which clients write the same key


class Authenticator:
    """Checks a request's key; where there are none, the client's address and whether a web page sent it."""

    __slots__ = ("_bearers", "_by_digest", "_known", "_measuring", "_pages", "_peers", "sessions")

    def __init__(
        self,
        keys: Sequence[ApiKey],
        pages: WebPages,
        peers: Peers,
        sessions: Sessions,
        measuring: Callable[[str], ApiKey | None] = lambda _digest: None,
    ) -> None:
        """`measuring` knows the key of a `berth bench` that runs, by its digest; it ends with the lease."""
        self._measuring = measuring
        self._pages = pages
        self._peers = peers
        self.sessions = sessions
        self.replace(keys)

    def replace(self, keys: Sequence[ApiKey]) -> None:
        """From now on these keys are valid, and no others."""
        self._by_digest = {digest: key for key in keys for digest in key.digests}
        self._known: dict[bytes, ApiKey] = {}  # keys that were valid: no more than there are digests
        self._bearers: dict[bytes, ApiKey] = {}  # the same by the whole header: _FORMS for each digest at most

    def check(
        self, headers: Mapping[bytes, bytes], client: tuple[str, object] | None, *, changes: bool = True
    ) -> ApiKey:
        """Whose request it is; OPEN if no key is needed, and for an operator: by a session, and, to read, by a key of
        theirs. AuthenticationError without a
        valid key or session of the page, ForbiddenError for a page. `headers` has its names in lower case; `client` is
        the address and port at the other end of the connection; `changes` is False for what only reads.
        """
        if not self._by_digest:
            address = client[0] if client else None
            if address not in self._peers.known or b"x-forwarded-for" in headers or b"forwarded" in headers:
                self._peers.check(address, headers)
            pages = self._pages
            if b"origin" in headers or b"sec-fetch-site" in headers or headers.get(b"host") not in pages.hosts:
                pages.check(headers)
            return OPEN
        bearer = headers.get(b"authorization")
        key = self._known.get(headers.get(b"x-api-key", b"")) if bearer is None else self._bearers.get(bearer)
        if key is None:
            key = self._found(headers, changes=changes)
        if key.expires and time.time() >= key.expires:
            date = datetime.fromtimestamp(key.expires, UTC).isoformat(timespec="seconds")
            raise AuthenticationError(f"The API key {key.name!r} has expired at {date}.", code="expired_api_key")
        return key

    def _found(self, headers: Mapping[bytes, bytes], *, changes: bool) -> ApiKey:
        """Of a header that is not remembered, or of a session. Errors as for `check`."""
        given, bearer = key_in(headers), headers.get(b"authorization", b"")
        if not given:
            if (session := self.sessions.of(headers, changes=changes)) is not None:
                return self.sessions.owner(session)
            raise AuthenticationError(
                "You didn't provide an API key. Send one of BERTH_API_KEYS as 'Authorization: Bearer KEY' or as "
                "'x-api-key: KEY'.",
                code="missing_api_key",
            )
        digest = hashlib.sha256(given).hexdigest()
        key = self._by_digest.get(digest)  # how long that takes says nothing about a key
        if key is None:  # what is no API key is not remembered, since it is valid for a while only
            if (measuring := self._measuring(digest)) is not None:
                return measuring
            if not changes and self.sessions.is_operator(given):
                return OPEN
            raise AuthenticationError("Incorrect API key provided.")
        self._known[given] = key
        if bearer[:7].lower() == b"bearer " and bearer[7:].strip() == given:
            if len(self._bearers) >= _FORMS * len(self._by_digest):
                self._bearers.clear()
            self._bearers[bearer] = key
        return key


def require_model(key: ApiKey, route: ModelRoute) -> None:
    """ForbiddenError for a model that the key may not use. An adapter is a model of its own."""
    if key.models and not may_use(key, route):
        raise ForbiddenError(
            f"The API key {key.name!r} may not use the model {route.name!r}. It may use: {', '.join(key.models)}.",
            code="model_not_allowed",
        )


def may_use(key: ApiKey, route: ModelRoute) -> bool:
    return not key.models or any(name in key.models for name in (route.name, *route.aliases))


def key_in(headers: Mapping[bytes, bytes]) -> bytes:
    """The API key of a request; b"" if it has none."""
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and value.strip():
        return value.strip()
    return headers.get(b"x-api-key", b"").strip()

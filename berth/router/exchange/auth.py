"""Authentication of clients: the API keys of BERTH_API_KEYS, as digests.

Keys guard the inference APIs, the list of models and /status, which shows reasons and an engine's last log lines.
/health and /ready are open because load balancers and probes have no keys; /metrics is open because it contains only
names and numbers, and a Prometheus that also scrapes the engines has no key for those either. `/` and /api/version are
open because Ollama's clients request them first; they disclose nothing about this server.

Without keys, the same paths are closed to clients without a private address (berth.router.exchange.peers), and to web
pages that are not allowed.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from berth.errors import AuthenticationError
from berth.router.exchange.peers import Peers
from berth.router.exchange.sessions import Sessions
from berth.router.exchange.web_pages import WebPages


class Authenticator:
    """Checks a request's key; where there are no digests, the client's address and whether a web page sent it."""

    __slots__ = ("_digests", "_known", "_pages", "_peers", "sessions")

    def __init__(self, digests: Sequence[str], pages: WebPages, peers: Peers, sessions: Sessions) -> None:
        self._pages = pages
        self._peers = peers
        self.sessions = sessions
        self._digests = tuple(digest.encode() for digest in digests)
        self._known: set[bytes] = set()  # keys that were valid: no more than there are digests

    def check(
        self, headers: Mapping[bytes, bytes], client: tuple[str, object] | None, *, changes: bool = True
    ) -> bytes:
        """The key, which stands for the owner of the request; b"" if no key is needed. AuthenticationError without a
        valid one or a session of the page, ForbiddenError for a page. `headers` has its names in lower case; `client`
        is the address and port at the other end of the connection; `changes` is False for what only reads.
        """
        if not self._digests:
            address = client[0] if client else None
            if address not in self._peers.known or b"x-forwarded-for" in headers or b"forwarded" in headers:
                self._peers.check(address, headers)
            pages = self._pages
            if b"origin" in headers or b"sec-fetch-site" in headers or headers.get(b"host") not in pages.hosts:
                pages.check(headers)
            return b""
        key = key_in(headers)
        if key in self._known:
            return key
        if not key:
            if (session := self.sessions.of(headers, changes=changes)) is not None:
                return f"session {session.key}".encode()
            raise AuthenticationError(
                "You didn't provide an API key. Send one of BERTH_API_KEYS as 'Authorization: Bearer KEY' or as "
                "'x-api-key: KEY'.",
                code="missing_api_key",
            )
        given = hashlib.sha256(key).hexdigest().encode()
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]  # always all of them
        if not any(matches):
            raise AuthenticationError("Incorrect API key provided.")
        self._known.add(key)
        return key


def key_in(headers: Mapping[bytes, bytes]) -> bytes:
    """The API key of a request; b"" if it has none."""
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and value.strip():
        return value.strip()
    return headers.get(b"x-api-key", b"").strip()

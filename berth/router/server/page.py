"""/ui/: the page for people, as static files, and its sessions.

The files hold no data, and so everybody gets them. What the page shows and does is in Berth's other paths, and open to
the same clients as there. It takes nothing from elsewhere, and a browser lets it: the policy allows no other source, no
inline script and no frame.
"""

import asyncio
import gzip
import hashlib
import time
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from berth.errors import AuthenticationError, InvalidRequestError, OverloadedError, TooLargeError
from berth.log import log
from berth.router.exchange.inflight import read_body
from berth.router.exchange.responses import Headers, Reply, json_reply, write
from berth.router.exchange.sessions import Session, require_own_page
from berth.router.server.inference import check_json_type
from berth.router.server.page_script import joined, tight_style
from berth.router.worker import Worker

FOLDER: Final = Path(__file__).parents[2] / "page"
FILES: Final = {
    "/ui": "index.html",
    "/ui/app.js": "app.js",
    "/ui/app.css": "app.css",
    "/ui/connect.json": "connect.json",
}
TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".json": b"application/json",
}
POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = [
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),  # a browser asks each time, and gets a 304
    (b"vary", b"accept-encoding"),
]
NOT_CACHED: Final = [(b"cache-control", b"no-store")]
LOGIN_BYTES: Final = 4096
FREE_FAILURES: Final = 5  # of one address at once
PER_FAILURE_S: Final = 12.0
_MOST_ADDRESSES: Final = 1024


class File:
    """GET and HEAD of one file of the page. It is read when it is first requested."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._type = TYPES[path.suffix]
        self._plain = self._packed = self._tag = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._tag:
            await asyncio.to_thread(self._read)  # tens of milliseconds
        requested = dict(scope["headers"])
        headers = [*HEADERS, (b"etag", self._tag)]
        if self._tag in requested.get(b"if-none-match", b""):
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        body = self._plain
        if b"gzip" in requested.get(b"accept-encoding", b""):
            body = self._packed
            headers.append((b"content-encoding", b"gzip"))
        reply = Reply(body=body, content_type=self._type)
        await write(send, reply, headers, head_only=scope["method"] == "HEAD")

    def _read(self) -> None:
        self._plain = content_of(self._path)
        self._packed = gzip.compress(self._plain, mtime=0)
        self._tag = b'W/"%s"' % hashlib.sha256(self._plain).hexdigest()[:20].encode()


def content_of(path: Path) -> bytes:
    """As it is served: scripts joined into one, and without what only people need."""
    match path.suffix:
        case ".js":
            return joined(path).encode()
        case ".css":
            return tight_style(path.read_text(encoding="utf-8")).encode()
        case ".json":
            return msgspec.json.format(path.read_bytes(), indent=-1)
        case _:
            return path.read_bytes()


class FailedLogins:
    """Keys may not be guessed: an address has FREE_FAILURES at once, and one more every PER_FAILURE_S. Each worker
    counts its own.
    """

    def __init__(self) -> None:
        self._paid_at: dict[str, float] = {}  # by address: when its failures are forgotten; a leaky bucket

    def check(self, address: str) -> None:
        """OverloadedError for an address that has failed too often."""
        left_s = self._paid_at.get(_network(address), 0.0) - time.monotonic()
        if left_s > (FREE_FAILURES - 1) * PER_FAILURE_S:
            wait_s = left_s - (FREE_FAILURES - 1) * PER_FAILURE_S
            raise OverloadedError("Too many failed logins from this address.", retry_after_s=wait_s, should_retry=False)

    def add(self, address: str) -> None:
        now, known = time.monotonic(), self._paid_at
        if len(known) >= _MOST_ADDRESSES:
            known.pop(min(known, key=known.__getitem__))  # the one that is forgotten first
        network = _network(address)
        known[network] = max(known.get(network, 0.0), now) + PER_FAILURE_S


class Login:
    """/ui/session: who the browser is, and whether it must sign in. /ui/login: a session for a key. /ui/logout."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._failed = FailedLogins()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sessions, headers = self._worker.auth.sessions, dict(scope["headers"])
        extra: Headers = [*NOT_CACHED, (b"x-request-id", self._worker.request_ids.of(headers).encode())]
        session: Session | None = None
        if scope["path"] == "/ui/session":
            session = sessions.of(headers, changes=False)
        else:
            if scope["path"] == "/ui/login":
                session = await self._sign_in(scope, receive, send)
            else:
                require_own_page(headers)
            extra.append((b"set-cookie", sessions.cookie(session)))
        keys = self._worker.keys.current
        document = {
            "role": session.role if session else None,
            "ends": session.ends if session else None,
            "open": self._worker.plan.open_access,  # reading needs no session
            "changes": bool(keys.admin_key_digest or keys.admin_secret),  # there may be a key that allows them
        }
        await write(send, json_reply(document), extra, head_only=scope["method"] == "HEAD")

    async def _sign_in(self, scope: Scope, receive: Receive, send: Send) -> Session:
        headers, client, inflight = dict(scope["headers"]), scope.get("client"), self._worker.inflight
        address = client[0] if client else "?"
        if b"origin" in headers or b"sec-fetch-site" in headers:  # a program sends neither
            require_own_page(headers)
        check_json_type(headers.get(b"content-type", b""))
        self._failed.check(address)
        request = inflight.begin(receive, send, client)
        try:
            body = await read_body(headers, request, self._worker.plan.limits, inflight.memory)
        finally:
            inflight.end(request)
        session = self._worker.auth.sessions.sign_in(key_of(body))
        if session is None:
            self._failed.add(address)
            log.warning("login failed", client=address)
            raise AuthenticationError("This is neither one of BERTH_API_KEYS nor BERTH_ADMIN_KEY.")
        log.info("login", client=address, role=session.role)
        return session


def key_of(body: bytes) -> str:
    """The key that a login sends. InvalidRequestError where there is none."""
    if len(body) > LOGIN_BYTES:
        raise TooLargeError(f"The request has {len(body)} bytes: more than a key needs.")
    try:
        document: Any = msgspec.json.decode(body)
        key = document["key"]
    except (ValueError, TypeError, KeyError):
        key = None
    if not isinstance(key, str) or not key.strip():
        raise InvalidRequestError('Send a key as {"key": "..."}.', param="key")
    return key.strip()


def routes(worker: Worker) -> list[Route]:
    """Of the page's files, and of its sessions."""
    login = Login(worker)
    return [
        *(Route(path, File(FOLDER / name), methods=["GET"]) for path, name in FILES.items()),
        Route("/ui/session", login, methods=["GET"]),
        *(Route(path, login, methods=["POST"]) for path in ("/ui/login", "/ui/logout")),
    ]


def _network(address: str) -> str:
    """Who counts as one: an IPv4 address, or the 64 bits of an IPv6 address that a customer gets."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return address

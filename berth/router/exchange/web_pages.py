"""Web pages as clients: which may use Berth, and which may read its responses.

A browser sends requests for any page that its user opens, also to a Berth on localhost or in a private network. Without
API keys, any page could use the models. There are two ways, and both are closed:

1. A page sends a request with a body of `text/plain` or a form, for which browsers ask no permission. They name the
   page's origin in `Origin`: only those in BERTH_CORS_ORIGINS are allowed, and Berth's own.
2. A page's own name is made to resolve to Berth's address (DNS rebinding), and the browser takes both for one site.
   The name is in `Host`: only names that public DNS cannot contain are allowed, and those in BERTH_CORS_ORIGINS.

Programs that are no browsers send no Origin, and are asked for the Host only. With API keys nothing is checked here: no
page has a key, unless its user gave it one. The pages that are allowed get the headers with which browsers let them
read responses, with keys or without.
"""

import re
import socket
from collections.abc import Mapping, Sequence
from typing import Final

from berth.errors import ForbiddenError, shortened
from berth.log import log
from berth.plan import LOCAL_ORIGINS
from berth.router.exchange.responses import Headers

# Pages of the user's own machine, browser extensions and desktop applications: none of them can be opened by a link,
# and the user has installed them.
_LOCAL: Final = (
    *("http://localhost:*", "https://localhost:*", "http://127.0.0.1:*", "https://127.0.0.1:*"),
    *("http://[::1]:*", "https://[::1]:*", "http://0.0.0.0:*", "https://0.0.0.0:*"),
    *("chrome-extension://*", "moz-extension://*", "safari-web-extension://*"),
    *("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*"),
)
EXPOSED: Final = (
    *("x-request-id", "request-id", "retry-after", "x-should-retry", "server-timing", "www-authenticate", "allow"),
    *("accept-encoding", "x-berth-attempts", "x-berth-engine", "x-berth-ignored", "x-berth-mode", "x-berth-replica"),
    "x-berth-rule",
    *("x-berth-load-ms", "x-berth-loaded", "x-berth-queue-ms"),
)
# RFC 6761, RFC 6762 (appendix G), RFC 8375, and `.internal`, which ICANN has reserved; `.svc` is Kubernetes' own.
_LOCAL_SUFFIXES: Final = (
    *(".localhost", ".local", ".internal", ".lan", ".home", ".corp", ".private", ".intranet", ".test", ".svc"),
    ".home.arpa",
)
_HEADER_NAMES: Final = re.compile(rb"[A-Za-z0-9_, -]{1,4096}")
_ALLOWED_S: Final = 7200  # how long browsers may remember a permission; Chrome's upper limit
_MOST_REMEMBERED: Final = 64


class WebPages:
    """The rules, and what was judged by them. Names and origins come from clients, so few of them are remembered."""

    def __init__(self, origins: Sequence[str], names: Sequence[str] = ()) -> None:
        """`origins` as in the plan; `names` of this host."""
        self._all = "*" in origins
        local = _LOCAL if LOCAL_ORIGINS in origins else ()
        self._patterns = [_pattern(origin) for origin in (*local, *origins)]
        urls = [origin.split("://", 1)[1] for origin in origins if origin.startswith(("http://", "https://"))]
        self._names = [_pattern(_name_of(url)) for url in (*urls, *names, socket.gethostname())]
        self._origins: dict[bytes, bool] = {}
        self.hosts: set[bytes] = set()  # values of `Host` that were allowed

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """ForbiddenError for a request that a page may not send. For a Berth without keys."""
        host = headers.get(b"host", b"")
        if host not in self.hosts:
            name = _name_of(host.decode("latin-1"))
            if not (self._all or is_local_name(name) or any(pattern.fullmatch(name) for pattern in self._names)):
                raise ForbiddenError(
                    f"The host name {shortened(name)!r} is not allowed: without API keys, only addresses and local "
                    "names are. The operator can add it to BERTH_CORS_ORIGINS as 'http://NAME', or set BERTH_API_KEYS.",
                    code="host_not_allowed",
                )
            if len(self.hosts) < _MOST_REMEMBERED:
                self.hosts.add(host)
        origin = headers.get(b"origin")
        if origin is not None:
            if origin.partition(b"://")[2] != host and not self.allows(origin):
                raise not_allowed(origin)
        elif headers.get(b"sec-fetch-site") == b"cross-site" and headers.get(b"sec-fetch-mode") != b"navigate":
            raise ForbiddenError("A page of another site may not use this server.", code="origin_not_allowed")

    def allows(self, origin: bytes) -> bool:
        """Whether pages of this origin may send requests and read the responses."""
        allowed = self._origins.get(origin)
        if allowed is None:
            text = origin.decode("latin-1").lower()
            allowed = self._all or any(pattern.fullmatch(text) for pattern in self._patterns)
            if len(self._origins) < _MOST_REMEMBERED:
                self._origins[origin] = allowed
                if not allowed:  # the page's author sees no reason: the browser shows none
                    log.warning("web page not allowed", origin=shortened(text))
        return allowed

    def response_headers(self, origin: bytes) -> Headers:
        """With these a page of an origin that is allowed can read a response."""
        exposed = ", ".join(EXPOSED).encode()
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", exposed),
            (b"vary", b"origin"),
        ]

    def preflight_headers(self, headers: Mapping[bytes, bytes]) -> Headers:
        """The permission that a browser asks for, `OPTIONS` with `Access-Control-Request-Method`. Any headers are
        allowed, because each SDK has its own, and any methods, so that the page can read the error for a wrong one.
        """
        wanted = headers.get(b"access-control-request-headers", b"")
        allowed = [
            (b"access-control-allow-methods", b"DELETE, GET, HEAD, POST"),
            (b"access-control-max-age", b"%d" % _ALLOWED_S),
        ]
        if _HEADER_NAMES.fullmatch(wanted):
            allowed.append((b"access-control-allow-headers", wanted))
        if headers.get(b"access-control-request-private-network") == b"true":
            allowed.append((b"access-control-allow-private-network", b"true"))
        return allowed


def not_allowed(origin: bytes) -> ForbiddenError:
    shown = shortened(origin.decode("latin-1"))
    return ForbiddenError(
        f"Pages of the origin {shown!r} may not use this server. Its operator can add the origin to "
        "BERTH_CORS_ORIGINS.",
        code="origin_not_allowed",
    )


def is_local_name(name: str) -> bool:
    """Whether public DNS cannot contain this name. Pure. There are three cases: a name without a dot (`localhost`, a
    container's, an IPv6 address), an IPv4 address, and a name below a domain that is not public.
    """
    return "." not in name or name.rpartition(".")[2].isdecimal() or name.endswith(_LOCAL_SUFFIXES)


def _name_of(authority: str) -> str:
    """The host of `host:port`, in lower case; of an IPv6 address without brackets."""
    authority = authority.lower()
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0].removesuffix(".")


def _pattern(origin: str) -> re.Pattern[str]:
    """`*` is any text without a slash; `:*` at the end is any port or none."""
    escaped = re.escape(origin.lower()).replace(r"\*", "[^/]*")
    return re.compile(re.sub(r":\[\^/\]\*$", "(?::[0-9]+)?", escaped))

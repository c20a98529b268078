"""Which clients a Berth without API keys serves: by the address of their connection.

A Berth that is open to the whole Internet is found within hours. So without keys only clients with private addresses
are served (BERTH_OPEN_TO), and all others are asked for a key, which the operator has to set first.

Behind a reverse proxy every client has the proxy's address. So a request with `Forwarded` or `X-Forwarded-For` counts
as one of the client that the proxy names, if BERTH_TRUSTED_PROXIES lists the proxy. From others such a request is
rejected: the header's author could have written any address.
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from berth.errors import AuthenticationError, ForbiddenError, shortened
from berth.plan import OpenTo

_PRIVATE: Final = tuple(
    map(
        ip_network,
        (
            *("127.0.0.0/8", "::1/128"),  # this machine
            *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),  # RFC 1918, RFC 4193
            *("169.254.0.0/16", "fe80::/10"),  # the own link
            "100.64.0.0/10",  # RFC 6598: carriers' networks, and Tailscale's
            "198.18.0.0/15",  # RFC 2544: never routed on the Internet, and used for networks of containers
        ),
    )
)
_MOST_REMEMBERED: Final = 1024
_FORWARDED: Final = (b"forwarded", b"x-forwarded-for")
_ADVICE: Final = "The operator sets BERTH_API_KEYS, or BERTH_OPEN_TO=all to serve everybody who reaches the port."


class Peers:
    """The rules, and the addresses that were allowed by them."""

    def __init__(self, open_to: OpenTo, proxies: Sequence[str] = ()) -> None:
        self._all = open_to is OpenTo.ALL
        self._proxies = [ip_network(proxy) for proxy in proxies]
        self.known: set[str | None] = set()  # addresses that were allowed, with requests that no proxy has forwarded

    def check(self, address: str | None, headers: Mapping[bytes, bytes]) -> None:
        """AuthenticationError for a client that needs a key; ForbiddenError for an unknown proxy. `address` is that of
        the connection, None for one without.
        """
        if self._all:
            return
        forwarded = next((name for name in _FORWARDED if name in headers), None)
        if forwarded is None:
            self._require_private(address)
            if len(self.known) < _MOST_REMEMBERED:
                self.known.add(address)
            return
        if not self._trusts(address):
            raise ForbiddenError(
                f"A proxy at {shortened(str(address))!r} has forwarded this request (header {forwarded.decode()!r}), "
                "and who sent it is not known. Without API keys Berth serves clients with private addresses only. The "
                "operator sets BERTH_API_KEYS, or adds the proxy to BERTH_TRUSTED_PROXIES.",
                code="proxy_not_trusted",
            )
        self._require_private(self._sender(forwarded, headers[forwarded].decode("latin-1")))

    def _sender(self, name: bytes, value: str) -> str:
        """The last address of the list that is not a trusted proxy's: each proxy appends the one that it saw."""
        words = [word.strip() for word in value.split(",")]
        if name == b"forwarded":  # RFC 7239: for="[2001:db8::1]:4711";proto=https
            parts = [dict(pair.strip().partition("=")[::2] for pair in word.lower().split(";")) for word in words]
            words = [part.get("for", "").strip('"') for part in parts]
        plain = [word[1:].partition("]")[0] if word.startswith("[") else word for word in words]
        addresses = [word.partition(":")[0] if word.count(":") == 1 else word for word in plain]  # without the port
        return next((one for one in reversed(addresses) if not self._trusts(one)), addresses[0])

    def _trusts(self, address: str | None) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._proxies)

    def _require_private(self, address: str | None) -> None:
        parsed = _parsed(address)
        if parsed is None or not any(parsed in network for network in _PRIVATE):
            raise AuthenticationError(
                f"Clients at {shortened(str(address))!r} need an API key, and this Berth has none: without keys it "
                f"serves private addresses only. {_ADVICE}",
                code="address_not_allowed",
            )


def _parsed(address: str | None) -> IPv4Address | IPv6Address | None:
    """An embedded IPv4 address counts as itself: a socket for both versions shows clients like that."""
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    return parsed.ipv4_mapped or parsed if isinstance(parsed, IPv6Address) else parsed

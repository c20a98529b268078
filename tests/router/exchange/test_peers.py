"""Clients of a Berth without keys, by the address of their connection and by what a proxy says."""

from collections.abc import Mapping

import pytest

from berth.errors import AuthenticationError, ForbiddenError
from berth.plan import OpenTo
from berth.router.exchange.peers import Peers

PRIVATE_ADDRESSES = (
    *("127.0.0.1", "127.8.8.8", "::1", "10.1.2.3", "172.16.0.1", "172.31.255.254", "192.168.0.1", "169.254.1.1"),
    *("fd00::1", "fe80::1", "fe80::1%eth0", "::ffff:192.168.0.1", "100.64.0.1", "100.127.255.254", "198.19.255.254"),
)
OTHER_ADDRESSES = (
    *(
        "8.8.8.8",
        "172.15.255.255",
        "172.32.0.1",
        "192.169.0.1",
        "100.128.0.1",
        "198.20.0.1",
        "2001:db8::1",
        "::ffff:8.8.8.8",
    ),
    *("0.0.0.0", "not an address", "", None),
)
PROXY = "172.18.0.2"


@pytest.mark.parametrize("address", PRIVATE_ADDRESSES)
def test_serves_private_addresses(address: str) -> None:
    peers = Peers(OpenTo.PRIVATE)
    peers.check(address, {})
    assert address in peers.known


@pytest.mark.parametrize("address", OTHER_ADDRESSES)
def test_other_addresses_need_a_key(address: str | None) -> None:
    peers = Peers(OpenTo.PRIVATE)
    with pytest.raises(AuthenticationError, match="BERTH_OPEN_TO=all") as caught:
        peers.check(address, {})
    assert caught.value.code == "address_not_allowed"
    assert address not in peers.known


@pytest.mark.parametrize("address", [*PRIVATE_ADDRESSES, *OTHER_ADDRESSES])
def test_open_to_all_serves_every_address(address: str | None) -> None:
    Peers(OpenTo.ALL).check(address, {b"x-forwarded-for": b"8.8.8.8"})  # passes: no exception


@pytest.mark.parametrize(
    ("headers", "served"),
    [
        ({b"x-forwarded-for": b"192.168.1.4"}, True),
        ({b"x-forwarded-for": b"8.8.8.8"}, False),
        ({b"x-forwarded-for": b"192.168.1.4, 8.8.8.8"}, False),  # the first is what the client wrote itself
        ({b"x-forwarded-for": b"8.8.8.8, 192.168.1.4"}, True),
        ({b"x-forwarded-for": b"192.168.1.4, 172.18.0.3"}, True),  # through two proxies
        ({b"x-forwarded-for": b"8.8.8.8, 172.18.0.3"}, False),
        ({b"x-forwarded-for": b"192.168.1.4:5555"}, True),
        ({b"x-forwarded-for": b"[fd00::1]:5555"}, True),
        ({b"x-forwarded-for": b"fd00::1"}, True),
        ({b"x-forwarded-for": b""}, False),
        ({b"x-forwarded-for": b"unknown"}, False),
        ({b"forwarded": b'for="[fd00::17]:47011";proto=https'}, True),
        ({b"forwarded": b"For=8.8.8.8"}, False),
        ({b"forwarded": b"proto=https;for=192.168.1.4, for=172.18.0.9"}, True),
        ({b"forwarded": b"proto=https"}, False),
        ({b"forwarded": b"for=8.8.8.8", b"x-forwarded-for": b"192.168.1.4"}, False),
    ],
)
def test_a_trusted_proxy_names_the_client(headers: Mapping[bytes, bytes], served: bool) -> None:
    peers = Peers(OpenTo.PRIVATE, ["172.18.0.0/16"])
    if served:
        peers.check(PROXY, headers)
    else:
        with pytest.raises(AuthenticationError):
            peers.check(PROXY, headers)
    assert not peers.known  # the proxy is known by what it says, each time


def test_rejects_what_an_unknown_proxy_forwards() -> None:
    peers = Peers(OpenTo.PRIVATE, ["172.18.0.3"])
    with pytest.raises(ForbiddenError, match="BERTH_TRUSTED_PROXIES") as caught:
        peers.check(PROXY, {b"x-forwarded-for": b"192.168.1.4"})
    assert caught.value.code == "proxy_not_trusted"


def test_remembers_a_bounded_number_of_addresses() -> None:
    peers = Peers(OpenTo.PRIVATE)
    for number in range(5000):
        peers.check(f"10.0.{number // 250}.{number % 250}", {})
    assert len(peers.known) <= 1024

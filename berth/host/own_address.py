"""Which host names mean this host."""

import ipaddress
import socket

import psutil

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def reaches(host: str, listen: str) -> bool:
    """Whether a connection from here to `host` arrives at this host's listener on `listen`, at the same port. A name
    that does not resolve reaches nothing.
    """
    targets = {_reached(address) for address in addresses(host)}
    bound = addresses(listen)
    if any(address.is_unspecified for address in bound):
        own = own_addresses()
        return any(address.is_loopback or address in own for address in targets)
    return bool(targets & {_reached(address) for address in bound})


def addresses(host: str) -> set[Address]:
    """As the resolver has them."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {_plain(str(entry[4][0])) for entry in found}


def own_addresses() -> set[Address]:
    """Of all network interfaces."""
    families = (socket.AF_INET, socket.AF_INET6)
    return {_plain(one.address) for all_ in psutil.net_if_addrs().values() for one in all_ if one.family in families}


def _plain(text: str) -> Address:
    """Without the zone, and IPv4 where it is mapped into IPv6."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _reached(address: Address) -> Address:
    """0.0.0.0 and :: reach loopback."""
    if not address.is_unspecified:
        return address
    return ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")

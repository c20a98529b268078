"""The network interfaces of this host: which has an address, and how fast it is."""

import socket
from dataclasses import dataclass
from ipaddress import ip_address

import psutil

BRIDGES = ("docker", "br-", "veth", "virbr", "cni", "flannel", "podman")  # they end in this host


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    name: str  # "eth0"
    addresses: tuple[str, ...]
    speed_mbit: int = 0  # 0: unknown
    up: bool = True

    @property
    def is_bridge(self) -> bool:
        return self.name.startswith(BRIDGES)

    @property
    def is_loopback(self) -> bool:
        return any(ip_address(one).is_loopback for one in self.addresses)


def interfaces() -> tuple[Interface, ...]:
    """Those with an IP address."""
    stats = psutil.net_if_stats()
    found = []
    for name, entries in psutil.net_if_addrs().items():
        families = (socket.AF_INET, socket.AF_INET6)
        own = tuple(one.address.partition("%")[0] for one in entries if one.family in families)
        if own:
            known = stats.get(name)
            speed, up = (known.speed, known.isup) if known else (0, True)
            found.append(Interface(name=name, addresses=own, speed_mbit=speed, up=up))
    return tuple(found)


def owner(found: tuple[Interface, ...], address: str) -> Interface | None:
    """The interface with this address. All of 127.0.0.0/8 is on loopback."""
    wanted = ip_address(address)
    for one in found:
        if address in one.addresses or (wanted.is_loopback and one.is_loopback):
            return one
    return None

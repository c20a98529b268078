"""Which interface has an address."""

import pytest

from berth.host.interfaces import Interface, interfaces, owner

LOOPBACK = Interface(name="lo", addresses=("127.0.0.1", "::1"))
CARD = Interface(name="eth0", addresses=("10.0.0.1", "fe80::1"))


def test_this_host_has_a_loopback_interface() -> None:
    found = owner(interfaces(), "127.0.0.1")
    assert found is not None
    assert found.is_loopback
    assert not found.is_bridge


@pytest.mark.parametrize(
    ("address", "name"), [("10.0.0.1", "eth0"), ("127.0.0.2", "lo"), ("10.0.0.2", None), ("fe80::1", "eth0")]
)
def test_the_owner_of_an_address(address: str, name: str | None) -> None:
    found = owner((LOOPBACK, CARD), address)
    assert (found.name if found else None) == name

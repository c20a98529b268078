"""Host names that mean this host, with the real resolver."""

import socket

import pytest

from berth.host.own_address import own_addresses, reaches

OTHER = "192.0.2.77"  # for documentation: no host has it


@pytest.mark.parametrize(
    ("host", "listen", "found"),
    [
        ("localhost", "0.0.0.0", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.2", "0.0.0.0", True),
        ("127.0.0.2", "127.0.0.1", False),
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "0.0.0.0", True),
        ("localhost", "localhost", True),
        ("::1", "::", True),
        ("::1", "::1", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("::ffff:127.0.0.1", "0.0.0.0", True),
        (OTHER, "0.0.0.0", False),
        (OTHER, OTHER, True),
        ("127.0.0.1", OTHER, False),
        ("no.such.host.invalid", "0.0.0.0", False),
        ("a..b", "0.0.0.0", False),
        ("x" * 70 + ".invalid", "0.0.0.0", False),
    ],
)
def test_own_and_other_hosts(host: str, listen: str, found: bool) -> None:
    assert reaches(host, listen) is found


def test_every_address_and_the_name_of_this_host() -> None:
    assert own_addresses()
    for address in own_addresses():
        assert reaches(str(address), "0.0.0.0")
        assert reaches(str(address), str(address))
    assert reaches(socket.gethostname(), "0.0.0.0")

import pytest

from berth.errors import InvalidRequestError, LoopDetectedError
from berth.router.exchange.headers import MOST_HOPS, Priority, hops, load_wait_s, priority


@pytest.mark.parametrize(
    ("given", "found"),
    [(b"high", Priority.HIGH), (b" Normal ", Priority.NORMAL), (b"LOW", Priority.LOW)],
)
def test_reads_the_priority_classes(given: bytes, found: Priority) -> None:
    assert priority({b"x-priority": given}) is found


def test_default_priority_is_normal() -> None:
    assert priority({}) is Priority.NORMAL


@pytest.mark.parametrize("given", [b"", b"urgent", b"1", b"\xff" * 99])
def test_rejects_unknown_priority(given: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="high, normal or low"):
        priority({b"x-priority": given})


@pytest.mark.parametrize("given", range(MOST_HOPS + 1))
def test_reads_the_hops(given: int) -> None:
    assert hops(b"%d" % given) == given


@pytest.mark.parametrize("given", [b"%d" % (MOST_HOPS + 1), b"9" * 5000])
def test_rejects_too_many_hops(given: bytes) -> None:
    with pytest.raises(LoopDetectedError, match=f"more than {MOST_HOPS} Berths"):
        hops(given)


@pytest.mark.parametrize("given", [b"", b"-1", b"1.0", b" 1", b"\xb2", b"\xff" * 99])
def test_rejects_hops_that_are_not_a_number(given: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="x-berth-hops must be a number"):
        hops(given)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"x-berth-load": b" No"}, 0),
        ({b"x-berth-load": b"no", b"x-berth-wait": b"9s"}, 0),
        ({b"x-berth-wait": b"120"}, 120),
        ({b"x-berth-wait": b"1.5m"}, 90),
        ({b"x-berth-wait": b"250ms"}, 0.25),
        ({b"x-berth-wait": b"24h"}, 86400),
    ],
)
def test_reads_how_long_a_client_waits_for_a_load(headers: dict[bytes, bytes], seconds: float | None) -> None:
    assert load_wait_s(headers) == seconds


@pytest.mark.parametrize(
    "headers",
    [
        {b"x-berth-load": b"yes"},
        *({b"x-berth-wait": one} for one in (b"", b"-1", b"long", b"25h", b"1e9", b"9" * 5000, b"\xff")),
    ],
)
def test_rejects_other_waits(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(InvalidRequestError, match="The header x-berth-"):
        load_wait_s(headers)

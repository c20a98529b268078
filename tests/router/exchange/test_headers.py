import pytest

from berth.errors import InvalidRequestError, LoopDetectedError
from berth.router.exchange.headers import MOST_HOPS, Priority, hops, priority


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

import pytest

from berth.errors import InvalidRequestError
from berth.router.exchange.headers import Priority, priority


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

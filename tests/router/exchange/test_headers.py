import pytest

from berth.errors import InvalidRequestError
from berth.router.exchange.headers import Priority, priority


@pytest.mark.parametrize(
    ("given", "found"),
    [(b"high", Priority.HIGH), (b" Normal ", Priority.NORMAL), (b"LOW", Priority.LOW)],
)
def test_a_class_is_a_word(given: bytes, found: Priority) -> None:
    assert priority({b"x-priority": given}) is found


def test_without_one_it_is_normal() -> None:
    assert priority({}) is Priority.NORMAL


@pytest.mark.parametrize("given", [b"", b"urgent", b"1", b"\xff" * 99])
def test_any_other_word_is_the_clients_error(given: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="high, normal or low"):
        priority({b"x-priority": given})

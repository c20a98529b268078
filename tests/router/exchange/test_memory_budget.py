import pytest

from berth.errors import OverloadedError
from berth.router.exchange.memory_budget import MemoryBudget, budget_bytes

MIB = 1 << 20
GIB = 1 << 30


@pytest.mark.parametrize(
    ("memory", "workers", "expected"),
    [(500 * GIB, 4, GIB), (8 * GIB, 2, GIB), (4 * GIB, 4, GIB // 4), (600 * MIB, 4, 160 * MIB)],
)
def test_size(memory: int, workers: int, expected: int) -> None:
    assert budget_bytes(32 * MIB, memory, workers) == expected


def test_reports_once_that_it_is_exhausted(caplog: pytest.LogCaptureFixture) -> None:
    budget = MemoryBudget(10)

    def rejected() -> None:
        with pytest.raises(OverloadedError):
            budget.take(3)

    budget.take(9)
    rejected()
    rejected()
    assert caplog.text.count("memory for request bodies exhausted") == 1

    budget.give_back(9)
    budget.take(9)
    rejected()
    assert caplog.text.count("memory for request bodies exhausted") == 2
    assert budget.used_bytes == 9

"""What tests/conftest.py does for a test that fails."""

import threading
from types import SimpleNamespace

import coverage
import pytest

from tests.conftest import pytest_exception_interact

pytestmark = pytest.mark.unmeasured  # it holds a lock of coverage


@pytest.mark.parametrize("held", [False, True])
def test_a_failed_test_leaves_no_lock_of_coverage_held(monkeypatch: pytest.MonkeyPatch, held: bool) -> None:
    lock = threading.Lock()
    assert not held or lock.acquire()
    measuring = SimpleNamespace(_collector=SimpleNamespace(data_lock=lock))
    monkeypatch.setattr(coverage.Coverage, "current", lambda: measuring)

    pytest_exception_interact()

    assert not lock.locked()


def test_coverage_has_that_lock() -> None:
    measuring = coverage.Coverage.current()
    assert measuring is None or hasattr(measuring, "_collector")
    assert measuring is None or hasattr(measuring._collector, "data_lock")

"""The programs, as supervisord starts them."""

import signal
import sys
from types import SimpleNamespace

import pytest

from berth.cli.main import main


def test_control_ends_as_it_should_also_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM waits until control has handlers for it."""
    blocked: list[bool] = []

    def serve(_run_dir: str) -> int:
        blocked.append(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return 0

    monkeypatch.setitem(sys.modules, "berth.control.main", SimpleNamespace(serve=serve))
    with pytest.raises(SystemExit) as ended:
        main(["control", "--run-dir", "/nowhere"])
    after = signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert (ended.value.code, blocked, after) == (0, [True], False)

import sys

import psutil
import pytest

from etc.tools.rivals.failure import BenchError
from etc.tools.rivals.programs import answers, log_file, running
from tests.e2e.appliance import wait_for
from tests.fakes.ports import free_port


def upstream(port: int) -> list[str]:
    return [sys.executable, "-m", "etc.tools.rivals.fake_upstream", "--port", str(port)]


def test_a_program_is_up_within_the_block_and_gone_after_it() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running("test-programs", upstream(port), url) as pid:
        assert answers(url, "none")
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)
    assert not answers(url, "none")
    log_file("test-programs").unlink()


def test_what_a_program_leaves_behind_is_ended_too() -> None:
    port = free_port()
    script = 'sleep 1000 & exec "$@"'
    with running("test-programs", ["sh", "-c", script, "sh", *upstream(port)], f"http://127.0.0.1:{port}") as pid:
        (child,) = psutil.Process(pid).children()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 10, lambda: f"{child} is left")
    log_file("test-programs").unlink()


def test_a_program_that_ends_is_quoted() -> None:
    command = ["sh", "-c", "echo first; echo it has no licence; exit 7"]
    with (
        pytest.raises(BenchError, match="ended with 7: it has no licence"),
        running("test-programs", command, f"http://127.0.0.1:{free_port()}"),
    ):
        pass
    log_file("test-programs").unlink()

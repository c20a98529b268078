"""Fixtures for all tests."""

import gc
import os
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import coverage
import pytest
from hypothesis import is_hypothesis_test, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from berth.build_form import COMPILED

# Examples have no deadline: how long one takes under coverage, beside other workers, says nothing about Berth.
settings.register_profile("berth", deadline=None)
settings.load_profile("berth")


VLLM_FILES = tuple(f"tests/e2e/test_{name}" for name in ("vllm", "continuation"))
# Their tests start programs, and watch them from outside.
PROGRAMS = (
    *("tests/accounts/", "tests/chaos/", "tests/e2e/", "tests/fuzz/"),
    *("tests/boot/test_scenarios.", "tests/boot/test_plan_on_cards."),
)
UNTRACED = (*PROGRAMS, "tests/router/clients/", "etc/tools/")
# Coverage makes an appliance take twice its CPU. In these files, few of them do most of what no other test reaches.
MEASURED_PROGRAMS = tuple(f"tests/e2e/test_{name}." for name in ("bench", "keys", "migrate", "operations", "shadow"))
LONGEST_FIRST = (VLLM_FILES, PROGRAMS)  # with several workers the last file should be short
SLOW_TIMEOUT_S = 90  # of tests with processes of their own; all others have the default of pyproject.toml
PATIENCE = 3  # an old or busy machine takes so many times as long as a test says
COVERAGE_CONFIG = "COVERAGE_PROCESS_CONFIG"  # a process that has it in its environment is measured


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if COMPILED and item.get_closest_marker("interpreted"):
            item.add_marker(pytest.mark.skip(reason="counts calls of Python functions"))
        if is_hypothesis_test(getattr(item, "function", None)) or (
            item.nodeid.startswith(UNTRACED) and not item.nodeid.startswith(MEASURED_PROGRAMS)
        ):
            item.add_marker("unmeasured")
        if timeout_s := timeout_of(item):
            item.add_marker(pytest.mark.timeout(PATIENCE * timeout_s), append=False)
    items.sort(key=lambda item: [not item.nodeid.startswith(paths) for paths in LONGEST_FIRST])


def timeout_of(item: pytest.Item) -> float | None:
    """What the test says, or what those like it have; None for the default of pyproject.toml."""
    if said := item.get_closest_marker("timeout"):
        return float(said.args[0])
    slow = item.get_closest_marker("slow") or item.get_closest_marker("engine")
    return SLOW_TIMEOUT_S if slow else None


@contextmanager
def untraced() -> Iterator[None]:
    """Coverage sees nothing of what this process does meanwhile."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


@contextmanager
def programs_unmeasured() -> Iterator[None]:
    """Coverage sees nothing of the programs that are started meanwhile."""
    config = os.environ.pop(COVERAGE_CONFIG, None)
    try:
        yield
    finally:
        if config is not None:
            os.environ[COVERAGE_CONFIG] = config


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """All workers import the same, so that one that is measured is enough: it takes twice as long. There is no garbage
    in what is collected: to look for it, now or later, takes as long as there are tests.
    """
    gc.disable()
    try:
        if os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0":
            return (yield)
        with untraced():
            return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Most programs are not measured, whether a fixture or the test starts them."""
    if not item.nodeid.startswith(PROGRAMS) or item.nodeid.startswith(MEASURED_PROGRAMS):
        return (yield)
    with programs_unmeasured():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Coverage makes a test half as fast, and one that computes for long takes three times as long. It leaves out
    property tests, since luck decides which lines only they reach, and the clients of whole programs, which are
    measured in processes of their own. pytest-cov's `no_cover` does not suffice: a worker, which is a subprocess too,
    has two tracers.
    """
    if not item.get_closest_marker("unmeasured"):
        return (yield)
    with untraced():
        return (yield)


def pytest_exception_interact() -> None:
    """Coverage has a lock. A timeout that is raised while a test holds it leaves it held, and each later test of this
    process would time out in its turn.
    """
    lock = getattr(getattr(coverage.Coverage.current(), "_collector", None), "data_lock", None)
    if lock is not None:
        lock.acquire(timeout=1)
        lock.release()


class Scheduling(LoadFileScheduling):  # type: ignore[misc] # xdist ships no types
    """A worker for each file. Those with the real vLLM are one file here, since every worker that has one imports vLLM:
    30 s of CPU and 0.6 GB.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "vLLM" if nodeid.startswith(VLLM_FILES) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With --durations: the files that take longest, since many short tests are seen nowhere else."""
    count = terminalreporter.config.getoption("durations")
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid.partition("::")[0]] += report.duration
    if count:
        terminalreporter.section(f"slowest files, of {sum(seconds.values()):.0f} s in all workers")
        for path, took_s in sorted(seconds.items(), key=lambda one: -one[1])[:count]:
            terminalreporter.line(f"{took_s:6.1f} s  {path}")


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_means_something() -> None:
    """A shell starts what runs in the background with SIGINT ignored, and every child would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """To read the machine's authorities takes 20 ms of CPU, and httpx does so for each client, and for each request
    without a client. The tests use http://, or name their certificate.
    """
    with pytest.MonkeyPatch.context() as environ:
        environ.delenv("SSL_CERT_FILE", raising=False)
        environ.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("authorities")))
        yield


@pytest.fixture
def anyio_backend() -> str:
    """Berth runs on asyncio alone."""
    return "asyncio"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Short, in place of pytest's own: a run directory holds Unix sockets, whose paths have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="berth-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)

